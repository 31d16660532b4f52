"""An interruption or an odd surrounding at any moment, imports included: a word, the right exit code, no traceback."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unipruning_core.cli import main as entry
from unipruning_core.errors import OutputError
from unipruning_core.tools.demo.assets import default_cache

PLAN = ["plan", "smollm2-135m"]
INTERRUPT = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


def run(words: list[str], *, modules: Path | None = None, cwd: Path | None = None, **environment: str):
    """A command in a process of its own, which finds the modules in a folder before all others."""
    paths = [str(modules)] if modules else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path[1:]]), **environment}
    command = [sys.executable, "-m", "unipruning_core.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


@pytest.mark.parametrize("module", ["pluggy", "torch"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
def test_an_interruption_during_an_import_is_no_traceback(tmp_path, module, wrapped):
    body = INTERRUPT
    if wrapped:
        lines = "".join(f"    {line}\n" for line in INTERRUPT.splitlines())
        body = f"try:\n{lines}except KeyboardInterrupt as error:\n    raise ImportError('no {module}') from error\n"
    (tmp_path / f"{module}.py").write_text(body)
    done = run(PLAN if module == "torch" else ["backends"], modules=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by SIGINT; the same command starts anew\n")


def test_the_entry_point_imports_nothing_of_ours_before_it_catches_errors():
    program = "import sys; import unipruning_core.cli.main; print(sorted(n for n in sys.modules if 'unipruning' in n))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    ours = {name for name in ast.literal_eval(done.stdout) if not name.startswith("__editable__")}
    assert ours == {"unipruning_core", "unipruning_core.cli", "unipruning_core.cli.main"}


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_traceback_is_shown_where_it_is_asked_for_and_the_sentence_follows(capsys, position):
    words = ["plan", "./nowhere"]
    words.insert(position, "--traceback")
    assert entry.main(words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert errors.splitlines()[-1].startswith("error: model './nowhere' has no usable config")


def test_a_second_interruption_while_the_first_is_told_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", interrupted)
    monkeypatch.setattr("unipruning_core.cli.net.interruption", interrupted)
    assert entry.main(["backends"]) == 130
    assert capsys.readouterr().err == ""


def test_memory_that_does_not_suffice_for_a_sentence_is_said_all_the_same(monkeypatch, capfd):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr(entry, "_run", exhausted)
    monkeypatch.setattr("unipruning_core.cli.net.sentence", exhausted)
    assert entry.main(["backends"]) == 2
    assert capfd.readouterr().err.startswith("error: memory is exhausted; ")


def test_a_current_folder_that_is_gone_is_one_sentence(tmp_path, monkeypatch, capsys, home):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert entry.main(["project", str(home / "model"), "run", "--sparsity", "50%", "--out", "out"]) == 2
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("which", ["model", "run", "data", "out", "budget"])
def test_a_name_too_long_is_one_sentence(home, search_words, tmp_path, capsys, which):
    long = str(tmp_path / ("x" * 300))
    model, out = str(home / "model"), str(tmp_path / "out")
    words = {
        "model": ["search", long, *search_words[1:], "--out", out],
        "run": ["project", model, long, "--sparsity", "50%", "--out", out],
        "data": ["search", model, "--data", long, "--out", out],
        "out": ["prune", *search_words, "--sparsity", "50%", "--out", long],
        "budget": ["prune", *search_words, "--sparsity", f"@{long}", "--out", out],
    }
    assert entry.main(words[which]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: ")
    assert "File name too long" in errors[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            (errno.EACCES, "Permission denied", "SOURCE"),
            ".safetensors' cannot be read: Permission denied; check the permissions",
        ),
        ((errno.ENOSPC, "No space left on device", "SOURCE", None, "TARGET"), "could not be written: No space left"),
        ((errno.EMFILE, "Too many open files", "TARGET"), "raise the limit of open files"),
    ],
    ids=["unreadable", "full", "too many"],
)
def test_the_file_that_fails_while_a_model_is_copied_is_named(home, tmp_path, monkeypatch, capsys, arguments, says):
    run = str(tmp_path / "run")
    words = ["--data", str(home / "text.txt"), "--samples", "2", "--seq-len", "16", "--mode", "frozen"]
    assert entry.main(["search", str(home / "model"), *words, "--out", run]) == 0

    def copyfile(source: Path, target: Path) -> None:
        names = {"SOURCE": str(source), "TARGET": str(target)}
        raise OSError(*(names.get(part, part) for part in arguments))

    monkeypatch.setattr("shutil.copyfile", copyfile)
    words = ["project", str(home / "model"), run, "--sparsity", "50%", "--out", str(tmp_path / "out")]
    assert entry.main(words) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_no_temporary_folder_is_one_sentence(monkeypatch, capsys):
    def missing(_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("unipruning_core.cli.machine._backends", missing)
    assert entry.main(["backends"]) == 2
    assert "set TMPDIR to a folder that exists and has space" in capsys.readouterr().err


def test_a_home_folder_that_is_unknown_is_one_sentence(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # what it does where neither HOME nor the user's entry names a folder
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(OutputError, match=r"no home folder; set XDG_CACHE_HOME"):
        default_cache()

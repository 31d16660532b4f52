"""Standard streams that are closed, full, read by nobody, or of few characters: they never decide what was done."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from typing import Any, TextIO, cast

import pytest

from unipruning_core.cli.main import main
from unipruning_core.progress import Bars
from unipruning_core.streams import Surviving

LIGHT = [sys.executable, "-m", "unipruning_core.cli"]


class Broken(io.TextIOWrapper):
    """A stream that takes some characters and fails from then on."""

    def __init__(self, error: BaseException, room: int = 0) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self.error, self.room = error, room

    def write(self, text: str) -> int:
        self.room -= len(text)
        if self.room < 0:
            raise self.error
        return super().write(text)


BREAKAGES = [
    pytest.param(BrokenPipeError(errno.EPIPE, "Broken pipe"), id="pipe"),
    pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="full"),
    pytest.param(OSError(errno.EIO, "Input/output error"), id="terminal"),
    pytest.param(OSError(errno.EBADF, "Bad file descriptor"), id="descriptor"),
    pytest.param(ValueError("I/O operation on closed file."), id="closed"),
]


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """The exit code, output and errors of a command of the shell, in which "$@" is our command."""
    done = subprocess.run(
        ["bash", "-c", line, "bash", *LIGHT],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ('"$@" backends >&-', 0, ""),
        ('"$@" backends 2>&-', 0, ""),
        ('"$@" backends <&- >&- 2>&-', 0, ""),
        ('"$@" backends >/dev/full', 2, "error: the work is done, but its result cannot be written"),
        ('"$@" --help >/dev/full', 2, "error: the work is done, but its result cannot be written"),
        ('"$@" backends 2>/dev/full', 0, ""),
        ('"$@" backends >/dev/full 2>/dev/full', 2, ""),
        ('"$@" project ./nowhere ./nowhere --sparsity 5 --out x 2>/dev/full', 2, ""),
        ('set -o pipefail; "$@" backends | true', 141, ""),
        ('"$@" project ./nowhere ./nowhere --sparsity 5 --out x 2>&1 | true; echo ${PIPESTATUS[0]} >&2', 0, "2"),
    ],
)
def test_a_standard_stream_that_cannot_be_used_costs_no_traceback(line, code, says):
    returned, _, errors = shell(line)
    assert returned == code, errors
    assert errors.count("\n") == bool(says)
    assert errors.startswith(says)


def test_a_file_of_the_work_never_takes_the_place_of_a_closed_stream():
    program = "import os, unipruning_core.cli.main as m; m.main(['backends']); print(os.open('/dev/null', os.O_RDONLY))"
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" 2>&-', sys.executable, program], capture_output=True, text=True, timeout=120
    )
    assert int(done.stdout.splitlines()[-1]) > 2


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda environment: "-".join(environment.values()),
)
def test_help_is_given_in_any_locale(environment):
    code, out, errors = shell('"$@" search --help', **environment)
    assert (code, errors) == (0, "")
    assert "--mode" in out


def test_names_that_are_no_text_are_recorded_and_shown(home, search_words, tmp_path, capsys):
    text = shutil.copy(home / "text.txt", tmp_path / "text\udcff.txt")
    words = [search_words[0], "--data", str(text), *search_words[3:], "--mode", "frozen"]
    out = tmp_path / "pruned\udcff"
    assert main(["prune", *words, "--sparsity", "50%", "--out", str(out)]) == 0
    assert "pruned\\udcff" in capsys.readouterr().out
    for written in (tmp_path / "pruned\udcff-run" / "run.json", out / "unipruning.json"):
        read = json.loads(written.read_text(encoding="utf-8"))
        assert str(text) in json.dumps(read, ensure_ascii=False)


def test_a_model_whose_name_no_library_can_open_is_refused_in_one_sentence(home, search_words, tmp_path, capsys):
    model = shutil.copytree(home / "model", tmp_path / "model\udcff")
    assert main(["search", str(model), *search_words[1:], "--out", str(tmp_path / "run")]) == 2
    assert "choose a name that is UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("error", BREAKAGES)
def test_a_stream_goes_quiet_at_its_first_failure_and_keeps_the_reason(error):
    stream = Surviving(lambda: Broken(error))
    assert stream.write("text") == 4
    stream.flush()
    assert stream.failure is error


def test_a_symbol_that_the_stream_lacks_is_written_as_an_escape():
    under = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    stream = Surviving(lambda: under)
    stream.write("Γ × \udcff")
    assert (stream.failure, cast(io.BytesIO, under.buffer).getvalue()) == (None, rb"\u0393 \xd7 \udcff")


@pytest.mark.parametrize("stream", [None, *(Broken(case.values[0]) for case in BREAKAGES)])  # type: ignore[arg-type]
def test_bars_outlive_their_stream(monkeypatch, stream: TextIO | None):
    monkeypatch.setattr(sys, "stderr", stream)
    bars, done = Bars(), 0
    bars.note("a note")
    with bars.task("work", 3, "step") as task:
        for _ in range(3):
            task.advance(loss=1.0)
            done += 1
    assert done == 3


@pytest.mark.parametrize("error", BREAKAGES)
@pytest.mark.parametrize("room", [0, 40, 400])
def test_a_search_outlives_its_terminal(search_words, tmp_path, monkeypatch, capsys, error: Any, room: int):
    monkeypatch.setattr(sys, "stderr", Broken(error, room))
    assert main(["search", *search_words, "--mode", "frozen", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "run.json").is_file()
    assert "next: unipruning project" in capsys.readouterr().out


@pytest.mark.parametrize("error", BREAKAGES)
def test_a_result_that_cannot_be_shown_is_on_disk_all_the_same(search_words, tmp_path, monkeypatch, capsys, error: Any):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    code = main(["search", *search_words, "--mode", "frozen", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "run.json").is_file()
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    if error.__class__ is BrokenPipeError:
        assert code == 141
        assert not last.startswith("error")
    else:
        assert code == 2
        assert last.startswith("error: the work is done, but its result cannot be written to standard output")

"""Every border of a command, raising every class of error: one sentence, the right exit code, and no traceback."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unipruning_core.cli.main import main
from unipruning_core.errors import first_line

# what a library in Rust raises where it should have returned an error: no Exception
PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


def wrapped_interruption() -> Exception:
    """What an interrupted import raises where a library wraps it."""
    error = ImportError("cannot import name 'x'")
    error.__cause__ = KeyboardInterrupt()
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    **{
        errno.errorcode[number]: lambda number=number: OSError(number, os.strerror(number), "/some/file")  # type: ignore[misc]
        for number in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EMFILE,
            errno.ENFILE,
            errno.ESTALE,
            errno.ENAMETOOLONG,
            errno.ELOOP,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.EIO,
            errno.EBUSY,
            errno.ENOMEM,
            errno.ENOENT,
            errno.EPIPE,
            errno.EINVAL,
        )
    },
    "nameless OSError": lambda: OSError(),
    "OSError of a library": lambda: OSError("Can't load it.\nIt is broken."),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "UnicodeEncodeError": lambda: UnicodeEncodeError("ascii", "Γ", 0, 1, "ordinal not in range"),
    "MemoryError": lambda: MemoryError(),
    "allocator": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 99 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "mapping": lambda: ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    "threads": lambda: RuntimeError("can't start new thread"),
    "pool of threads": lambda: PanicException("not initialised: ThreadPoolBuildError { kind: WouldBlock }"),
    "loop of links": lambda: RuntimeError("Symlink loop from '/some/link'"),
    "home": lambda: RuntimeError("Could not determine home directory."),
    "RuntimeError": lambda: RuntimeError("two\nlines"),
    "Exception": lambda: Exception("bare"),
    "AssertionError": lambda: AssertionError(),
    "ZeroDivisionError": lambda: ZeroDivisionError("division by zero"),
    "KeyError": lambda: KeyError("median"),
    "TypeError": lambda: TypeError("not that"),
    "ImportError": lambda: ImportError("libfoo.so: cannot open shared object file"),
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "PanicException": lambda: PanicException("called `Option::unwrap()` on a `None` value"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "wrapped KeyboardInterrupt": wrapped_interruption,
}
# of what is reached only after a model was loaded, and takes its time
FEW = ("ENOSPC", "EMFILE", "MemoryError", "allocator", "Exception", "KeyError", "PanicException", "KeyboardInterrupt")
AUTO = "transformers.Auto"
MODEL = [
    "unipruning_core.models.hub.mode_of",
    "unipruning_core.storage.checkpoint.read_header",
    f"{AUTO}Config.from_pretrained",
    f"{AUTO}Tokenizer.from_pretrained",
    "transformers.PreTrainedTokenizerFast.__call__",
    "unipruning_core.data.text._read_file",
    "unipruning_core.models.memory.free_host_bytes",
    f"{AUTO}ModelForCausalLM.from_pretrained",
]
EARLY = {
    "search": [
        *MODEL,
        f"{AUTO}ModelForCausalLM.from_config",
        "unipruning_core.registry.Catalogue.select",
    ],
    "project": [
        "json.loads",
        "unipruning_core.search.run_folder.read_header",
        "unipruning_core.projection.project.claimed_output",
        "shutil.copyfile",
        "shutil.disk_usage",
    ],
    "plan": [f"{AUTO}Config.from_pretrained", f"{AUTO}ModelForCausalLM.from_config"],
    "allocate": ["json.loads", "unipruning_core.search.run_folder.read_header", "os.fsync"],
}
LATE = {
    "search": [
        "transformers.LlamaForCausalLM.forward",
        "unipruning_core.search.run_folder.TensorStream",
        "unipruning_core.search.run_folder.write_json",
    ],
    "prune": [*MODEL, "shutil.copyfile", "unipruning_core.storage.staging.sync"],
    "perplexity": [*MODEL, "transformers.LlamaForCausalLM.forward"],
    "plan": ["os.fsync"],
}
CASES = [
    (command, border, names)
    for borders, names in ((EARLY, tuple(RAISED)), (LATE, FEW))
    for command in borders
    for border in borders[command]
]


@pytest.fixture(scope="module")
def run_folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, which project and allocate read."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--data", str(home / "text.txt"), "--samples", "2", "--seq-len", "16"]
    assert main(["search", str(home / "model"), *words, "--mode", "frozen", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def words(home: Path, run_folder: Path, tmp_path: Path) -> dict[str, list[str]]:
    model, out = str(home / "model"), str(tmp_path / "out")
    text = ["--data", str(home / "text.txt"), "--seq-len", "16"]
    search = [model, *text, "--samples", "2", "--mode", "drift", "--out", out]
    return {
        "search": ["search", *search],
        "prune": ["prune", *search, "--sparsity", "50%"],
        "project": ["project", model, str(run_folder), "--sparsity", "50%", "--out", out],
        "perplexity": ["perplexity", model, *text, "--windows", "2"],
        "plan": ["plan", model, "--seq-len", "16", "--json", out],
        "allocate": ["allocate", model, str(run_folder), "--scheme", "owl", "--sparsity", "60%", "--out", out],
    }


@pytest.mark.parametrize(("command", "border", "names"), CASES, ids=lambda part: part if isinstance(part, str) else "")
def test_whatever_a_border_raises_is_one_sentence(words, monkeypatch, capsys, tmp_path, command, border, names):
    faults = []
    for name in names:
        reached = []

        def fail(*_: Any, make: Any = RAISED[name], reached: Any = reached, **__: Any) -> None:
            reached.append(1)
            raise make()

        with monkeypatch.context() as patched:
            patched.setattr(border, fail)
            code = main(words[command])
        errors = capsys.readouterr().err
        told = [line for line in errors.splitlines() if line.startswith("error: ")]
        expected = (130, 0) if "KeyboardInterrupt" in name else (2, 1)
        if (code, len(told)) != expected or "Traceback" in errors or not reached:
            faults.append((name, code, bool(reached), errors))
        elif told and not errors.endswith(told[0] + "\n"):
            faults.append((name, "something follows the sentence", errors))
        elif told and name in ("MemoryError", "allocator", "mapping") and "memory" not in told[0]:
            faults.append((name, "memory is not the reason", told[0]))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert not faults


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("One.\nTwo.", "One"),
        ("One of:\n(1) a file,\n(2) a name.\n\nMore.", "One of: (1) a file, (2) a name"),
        ("One of: \n", "One of"),
        ("", "ValueError"),
    ],
)
def test_what_another_library_says_is_quoted_as_far_as_it_is_a_sentence(said, quoted):
    assert first_line(ValueError(said)) == quoted

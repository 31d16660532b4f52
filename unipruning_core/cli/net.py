"""The last net: whatever a command raises becomes one sentence and an exit code."""

from __future__ import annotations

import errno
import os

from unipruning_core.errors import NO_THREAD, UnipruningError, chain, first_line, reason_and_remedy
from unipruning_core.extensions import REMEDY, root_cause
from unipruning_core.models.memory import exhausted, is_out_of_memory

AUTOLOAD_FAILED = "Failed to load the backend extension"
OF_PATHS = ("Symlink loop", "Could not determine home directory")  # what pathlib raises
NO_TEMPORARY_FOLDER = "No usable temporary directory"


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption that led to an error: a library that is being imported may wrap it in one of its own."""
    return next((cause for cause in chain(error) if isinstance(cause, KeyboardInterrupt)), None)


def sentence(error: BaseException) -> str:
    """Return what to tell the user about an error, on one line."""
    return " ".join((str(error) if isinstance(error, UnipruningError) else _unforeseen(error)).split("\n"))


def _unforeseen(error: BaseException) -> str:
    if (told := _of_the_machine(error) or _of_an_input(error)) is not None:
        return f"{told} (--traceback shows where)"
    return (
        f"unexpected {type(error).__name__}: {first_line(error)}; this is a fault of the program: please report it "
        "with what --traceback shows"
    )


def _of_the_machine(error: BaseException) -> str | None:
    if is_out_of_memory(error):
        return f"memory is exhausted: {exhausted(error)}; use a machine with more, or a smaller model or --seq-len"
    # on import torch loads every installed device extension, and fails with the first that does
    if isinstance(error, RuntimeError) and AUTOLOAD_FAILED in str(error):
        return (
            f"torch cannot be imported because a device extension fails ({root_cause(error)}); {REMEDY}; "
            "see 'unipruning backends'"
        )
    if isinstance(error, ImportError) or any(words in str(error) for words in NO_THREAD):
        return reason_and_remedy(error, "")
    if isinstance(error, RuntimeError) and str(error).startswith(OF_PATHS):
        return f"{first_line(error)}; check the path, and that HOME names a folder"
    if not isinstance(error, OSError):
        return None
    if NO_TEMPORARY_FOLDER in str(error):
        return "no temporary folder can be written; set TMPDIR to a folder that exists and has space"
    if error.errno == errno.ENOENT and error.filename is None and _is_homeless():
        return "the current folder no longer exists; change to another"
    return reason_and_remedy(error, "check that it exists and can be used, then run again")


def _of_an_input(error: BaseException) -> str | None:
    if isinstance(error, UnicodeError):
        return f"a text is not in the encoding that is expected: {reason_and_remedy(error, 'convert it to UTF-8')}"
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply: {first_line(error)}; simplify it"
    return None


def _is_homeless() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False

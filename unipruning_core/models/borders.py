"""The border to other libraries: whatever they raise is the fault of what they were given, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unipruning_core.errors import UnipruningError, chain, reason_and_remedy
from unipruning_core.models.memory import is_out_of_memory

CODE_REFUSED, TRUST = "trust_remote_code", "pass --trust-remote-code if you trust its code"
PANIC = "pyo3_runtime.PanicException"  # of libraries in Rust; no Exception, and of no package that could be imported


@contextmanager
def library_errors_as(kind: type[UnipruningError], what: str, remedy: str) -> Iterator[None]:
    """Turn every exception of another library into one sentence: ``what``, its reason, and the remedy.

    Errors of ours, exhausted memory and interruptions pass as they are.

    Raises:
        UnipruningError: of this kind.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_a_library(error):
            raise
        helps = TRUST if CODE_REFUSED in str(error) else remedy
        raise kind(f"{what}: {reason_and_remedy(error, helps)}") from error


def is_of_a_library(error: BaseException) -> bool:
    """Return whether an error may be another library's: not one of ours, exhausted memory or an interruption."""
    if isinstance(error, UnipruningError) or not (isinstance(error, Exception) or is_panic(error)):
        return False
    return not is_out_of_memory(error) and not any(isinstance(cause, KeyboardInterrupt) for cause in chain(error))


def is_panic(error: BaseException) -> bool:
    """Return whether a library in Rust has panicked."""
    return f"{type(error).__module__}.{type(error).__name__}" == PANIC

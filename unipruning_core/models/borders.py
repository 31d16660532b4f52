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
    except UnipruningError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if is_out_of_memory(error) or any(isinstance(cause, KeyboardInterrupt) for cause in chain(error)):
            raise
        helps = TRUST if CODE_REFUSED in str(error) else remedy
        raise kind(f"{what}: {reason_and_remedy(error, helps)}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether a library in Rust has panicked."""
    return f"{type(error).__module__}.{type(error).__name__}" == PANIC

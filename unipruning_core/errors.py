"""Every error a user can cause, in one tree; a message says what was wanted, what came, and the remedy."""


class UnipruningError(Exception):
    """Base of all errors that the command line shows in one sentence, with exit code 2."""


class BackendNotFoundError(UnipruningError):
    """No installed plugin provides the requested backend."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"no backend is called {name!r}; installed: {', '.join(known) or 'none'}")


class BackendUnavailableError(UnipruningError):
    """The requested backend is installed but cannot run on this machine."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"backend {name!r} cannot run here: {reason}")


class ConfigError(UnipruningError):
    """A request contradicts itself, the model or the machine."""


class CheckpointError(UnipruningError):
    """A model folder is missing something, damaged, or of a kind that cannot be pruned."""


class DataError(UnipruningError):
    """A text or data set is missing, unreadable or too small."""


class RunError(UnipruningError):
    """A run folder is missing, unfinished, damaged, or belongs to another model."""


class OutputError(UnipruningError):
    """The output folder cannot be written: it exists, or the disk is full."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, without its full stop, to quote in a message of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

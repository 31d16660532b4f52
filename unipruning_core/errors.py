"""Every error a user can cause, in one tree; a message says what was wanted, what came, and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from os import PathLike, fspath

from unipruning_core.spelling import did_you_mean

# what helps against an error of the machine, whatever the file in question is for
REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or ask for a larger quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close some files of other programs",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "replace the link that leads to itself",
    errno.ESTALE: "check the network file system, then run again",
    errno.EIO: "check the disk",
    errno.EBUSY: "wait until nothing else uses it, or choose another place",
}
# in the words of Python, of libraries in Rust and of those in C++
NO_THREAD = ("can't start new thread", "ThreadPoolBuildError", "Resource temporarily unavailable")


class UnipruningError(Exception):
    """Base of all errors that the command line shows in one sentence, with exit code 2."""


class BackendNotFoundError(UnipruningError):
    """No installed plugin provides the requested backend."""

    def __init__(self, name: str, known: list[str]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"no backend is called {name!r}; installed: {listed}{did_you_mean(name, known)}")


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


class RanksError(UnipruningError):
    """A rank of a command over several processes failed, died, or would not do what the others do."""


class OutputError(UnipruningError):
    """The output folder cannot be written: it exists, or the disk is full."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, without its full stop, to quote in a message of ours.

    A line that ends in a colon is followed by what it announces, up to an empty line.
    """
    first, *others = [line.strip() for line in (str(error).strip() or type(error).__name__).splitlines()]
    for line in others if first.endswith(":") else ():
        if not line:
            break
        first += f" {line}"
    return first.rstrip(".:")


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        yield following
        seen.add(id(following))
        following = following.__cause__ or following.__context__


def reason_and_remedy(error: BaseException, remedy: str, about: PathLike[str] | None = None) -> str:
    """Return why something failed and what to do: ``remedy``, unless the machine is the reason.

    A file is named unless it is the one that the message is ``about``.

    Libraries wrap an error of the file system in their own and advise on the file's content, when a permission or space
    is missing.
    """
    for cause in chain(error):
        if any(words in str(cause) for words in NO_THREAD):
            return "no more threads can be started; raise the limits of processes (ulimit -u) and memory (ulimit -v)"
        if isinstance(cause, ImportError):
            return f"{first_line(cause)}; install what is missing"
        if isinstance(cause, OSError) and cause.errno in REMEDIES:
            known = cause.filename is None or (about is not None and cause.filename in (about, fspath(about)))
            where = "" if known else f" for {cause.filename!r}"
            return f"{(cause.strerror or str(cause)).rstrip('.')}{where}; {REMEDIES[cause.errno]}"
        # the name of a file whose bytes are no text, passed to a library that takes only text
        if isinstance(cause, UnicodeEncodeError):
            return f"{first_line(cause)}; choose a name that is UTF-8"
    if isinstance(error, OSError) and error.strerror and about is not None:
        return f"{error.strerror}; {remedy}"
    return f"{first_line(error)}; {remedy}"

"""Signals that ask a command to stop: work ends where its state is whole, and one sentence says what is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

# those that a terminal, a batch system or a container sends; not every system has all
ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# what batch systems send some time before the end, where nothing else in the process has a use for it
WARNING = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal ended the work; the message is a sentence that says what is kept of it."""

    def __init__(self, number: int = signal.SIGINT, kept: str = "") -> None:
        self.number, self.kept = number, kept
        super().__init__(f"stopped by {signal.Signals(number).name}{kept or '; the same command starts anew'}")

    @property
    def exit_code(self) -> int:
        """The code by which a shell knows that a signal ended the command."""
        return 128 + self.number


def as_stopped(interrupt: KeyboardInterrupt) -> Stopped:
    """Return any interruption as one that has a sentence."""
    return interrupt if isinstance(interrupt, Stopped) else Stopped()


@contextmanager
def explained(kept: Callable[[], str]) -> Iterator[None]:
    """Say, where work inside is interrupted, what is kept of it: the rest of a sentence, with its comma or semicolon.

    An interruption that has said so already passes.

    Raises:
        Stopped: it was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        stopped = as_stopped(interrupt)
        if stopped.kept:
            raise
        raise Stopped(stopped.number, kept()) from interrupt


class Stopping:
    """While entered, a signal is only noted, for the work to end where it can.

    SIGINT after it ends the work at once.  Other signals do not, since systems repeat them: they warn some time before
    they terminate, and tell a process, its group and its launcher, each of which tells the others.  What they kill
    next could then still have been saved.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that asked
        self._earlier: Mapping[int, Any] = {}

    def __enter__(self) -> Stopping:
        self._earlier = _handled(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._earlier)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        elif number == signal.SIGINT:
            raise Stopped(number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise ``Stopped`` where a signal arrives that would end the process without clean-up, or with a traceback."""
    earlier = _handled(_raise)
    try:
        yield
    finally:
        _put_back(earlier)


def _raise(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


def _handled(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install a handler, and return those that it replaces; only the main thread has any."""
    earlier: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return earlier
    for number in ASKING:
        # nohup and shells in the background have some ignored, and what no Python code installed cannot be put back
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            earlier[number] = signal.signal(number, handler)
    for number in WARNING:
        if signal.getsignal(number) in (signal.SIG_DFL, _raise):
            earlier[number] = signal.signal(number, handler)
    return earlier


def _put_back(earlier: Mapping[int, Any]) -> None:
    for number, handler in earlier.items():
        signal.signal(number, handler)

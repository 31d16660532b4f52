"""Signals that ask a command to stop: work ends where its state is whole, and one sentence says what is kept."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

# those that a terminal, a batch system or a container sends; not every system has all
ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_REQUEST = 1.0  # seconds within which a repeated signal, other than a second Ctrl-C, is the first one again


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
    """While entered, the first signal is only noted, for the work to end where it can; a second one ends it at once."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that asked
        self._asked_at = 0.0
        self._earlier: Mapping[int, Any] = {}

    def __enter__(self) -> Stopping:
        self._earlier = _handled(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._earlier)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self._asked_at = number, time.monotonic()
        # timeout(1) and batch systems signal a process and its group, so that one request arrives twice
        elif number == signal.SIGINT or number != self.number or time.monotonic() > self._asked_at + SAME_REQUEST:
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
    return earlier


def _put_back(earlier: Mapping[int, Any]) -> None:
    for number, handler in earlier.items():
        signal.signal(number, handler)

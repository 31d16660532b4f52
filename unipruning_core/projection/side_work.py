"""Work done in threads beside the main one, since hashing, reading and writing leave the interpreter free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from unipruning_core.errors import UnipruningError


@contextmanager
def one_behind() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Yield a function that does work in a thread, in order and one piece at a time.

    It first waits for the piece before, whose error it raises; so never more than one is pending, with what it holds.
    """
    pending: list[Future[object]] = []

    def do(work: Callable[[], object]) -> None:
        if pending:
            pending.pop().result()
        pending.append(thread.submit(work))

    with ThreadPoolExecutor(1) as thread:
        yield do
        if pending:
            pending.pop().result()


@contextmanager
def meanwhile(check: Callable[[Event], None] | None) -> Iterator[Callable[[], None]]:
    """Run a check in a thread, which ends early if the event is set; what fails meanwhile may be due to what it finds.

    Yields a function that raises what was found so far.
    """
    if check is None:
        yield lambda: None
        return
    stop = Event()
    with ThreadPoolExecutor(1) as thread:
        checked = thread.submit(check, stop)
        try:
            yield lambda: checked.result() if checked.done() else None
        except UnipruningError:
            checked.result()
            raise
        except BaseException:
            stop.set()
            raise
        checked.result()

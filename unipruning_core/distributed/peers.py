"""What becomes of the other ranks when one fails, dies or stalls: each ends with one sentence that names it.

An exchange fails on the ranks that are alive, at once or after the timeout.  They then say in the store that they are,
which outlives every rank, and name those that have said nothing, or why one of them stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from unipruning_core.errors import RanksError, UnipruningError, chain, first_line

GRACE = 5.0  # seconds in which ranks that are alive notice that an exchange has failed
# how gloo, NCCL and HCCL say so where they raise only a RuntimeError
FAILED = re.compile(
    r"Connection (closed|reset|refused)|Timed out|timed out|[Tt]imeout|Broken pipe|gloo|NCCL|HCCL|Hccl|process group|"
    r"Socket|recv|Process group",
)
FAILURE, ALIVE, HEARD = "unipruning/failure", "unipruning/alive", "unipruning/heard"


def report_failure(rank: int, sentence: str) -> None:
    """Leave for the other ranks why this one stops."""
    with suppress(RuntimeError, ValueError):  # the group, or its store, is gone already
        dist.distributed_c10d._get_default_store().set(f"{FAILURE}/{rank}", sentence)


def is_joined() -> bool:
    """Return whether this process has met the others."""
    return bool(dist.is_available() and dist.is_initialized())


def is_told(sentence: str) -> bool:
    """Return whether the first rank says the same, so that the others need not: it has some time to do so."""
    if not is_joined():
        return False
    until = time.monotonic() + GRACE
    with suppress(RuntimeError, ValueError):
        store = dist.distributed_c10d._get_default_store()
        while time.monotonic() < until:
            if store.check([f"{FAILURE}/0"]):
                said = store.get(f"{FAILURE}/0").decode()
                store.set(f"{HEARD}/{dist.get_rank()}", "")
                return bool(said == sentence)
            time.sleep(0.1)
    return False


def wait_to_be_heard() -> None:
    """Let the other ranks read why the first one stops, before the store that may be in its process is gone."""
    if not is_joined():
        return
    until = time.monotonic() + GRACE / 2
    with suppress(RuntimeError, ValueError):
        store = dist.distributed_c10d._get_default_store()
        keys = [f"{HEARD}/{rank}" for rank in range(1, dist.get_world_size())]
        while not all(store.check([key]) for key in keys) and time.monotonic() < until:
            time.sleep(0.05)


@contextmanager
def as_rank_errors(rank: int, size: int) -> Iterator[None]:
    """Turn the error of an exchange into a sentence about the rank that is to blame.

    Raises:
        RanksError: an exchange failed.
    """
    try:
        yield
    # of a layer's pass, in which FSDP exchanges too, a sentence may have been made already
    except (RuntimeError, UnipruningError) as error:
        if isinstance(error, RanksError) or (exchange := _failed_exchange(error)) is None:
            raise
        raise RanksError(f"rank {rank} stops, since {_blame(rank, size)} ({first_line(exchange)[:120]})") from error


def is_failed_exchange(error: BaseException) -> bool:
    """Return whether an error is that of an exchange between ranks."""
    return _failed_exchange(error) is not None


def _failed_exchange(error: BaseException) -> BaseException | None:
    """Return the error of an exchange that led to an error, if one did."""
    for cause in chain(error):
        if isinstance(cause, dist.DistError):
            return cause
        if isinstance(cause, RuntimeError) and FAILED.search(str(cause).partition("\n")[0]) is not None:
            return cause
    return None


def _blame(rank: int, size: int) -> str:
    """Return which rank did what."""
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{ALIVE}/{rank}", "")
        others = [other for other in range(size) if other != rank]
        until = time.monotonic() + GRACE
        while True:
            if failed := next((other for other in others if store.check([f"{FAILURE}/{other}"])), None):
                return f"rank {failed} failed: {store.get(f'{FAILURE}/{failed}').decode()}"
            if (silent := [other for other in others if not store.check([f"{ALIVE}/{other}"])]) == []:
                return "an exchange between the ranks failed; check the network between the nodes, and run again"
            if time.monotonic() > until:
                named = ", ".join(map(str, silent))
                return (
                    f"rank {named} died or does not answer; look at what it printed last, and run the command again, "
                    "which goes on from the last saved state"
                )
            time.sleep(0.1)
    # the store is gone with the process that held it
    except (RuntimeError, ValueError):
        return "the ranks have lost each other; run the command again, which goes on from the last saved state"

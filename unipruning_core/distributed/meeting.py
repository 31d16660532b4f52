"""The store through which the processes of a command find each other, empty for each attempt of a launcher.

torchrun starts processes that have failed anew with the store of the first attempt, in which the addresses of dead
processes remain.  Its number of restarts is each node's own, so the attempt is named here: every rank says a word that
it made up, and goes on under the name with which the first rank repeats that word.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from unipruning_core.errors import RanksError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import Store

WORD, ATTEMPT, READY = "unipruning/word", "unipruning/attempt", "unipruning/ready"
PAUSE = 0.05  # seconds between two looks


def launcher_store(rank: int, size: int, timeout: timedelta) -> Store:
    """Return the store of the launcher.

    Raises:
        RanksError: it cannot be reached in time.
    """
    began = time.monotonic()
    try:
        # torch tries twice, each time for as long as it is given
        store: Store = next(iter(rendezvous("env://", rank, size, timeout=timeout / 2)))[0]
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RanksError(
            f"rank {rank} found no rank 0 at {where} within {time.monotonic() - began:.0f} seconds; look at what that "
            f"printed last, and start the same command on every node ({first_line(error)[:120]})"
        ) from error
    store.set_timeout(timeout)
    return store


def meet(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """Return the launcher's store as all ranks of this attempt, and no others, see it.

    Raises:
        RanksError: a rank does not come in time.
    """
    name = _named(store, size, timeout) if rank == 0 else _heard(store, rank, timeout)
    return dist.PrefixStore(f"unipruning/{name}", store)  # type: ignore[attr-defined]


def _named(store: Store, size: int, timeout: timedelta) -> str:
    """Return the name of this attempt once every other rank has it."""
    name = secrets.token_hex(8)
    others = range(1, size)

    def missing() -> list[int]:
        words = {other: _said(store, f"{WORD}/{other}") for other in others}
        store.set(ATTEMPT, json.dumps({"name": name, "words": words}))
        return [other for other in others if _said(store, f"{READY}/{other}") != name]

    _wait(missing, timeout)
    return name


def _heard(store: Store, rank: int, timeout: timedelta) -> str:
    """Return the name that the first rank gave this attempt."""
    word = secrets.token_hex(8)
    store.set(f"{WORD}/{rank}", word)
    names: list[str] = []

    def missing() -> list[int]:
        attempt = json.loads(_said(store, ATTEMPT) or "{}")
        if attempt.get("words", {}).get(str(rank)) != word:  # of an earlier attempt, or none yet
            return [0]
        names.append(attempt["name"])
        return []

    _wait(missing, timeout)
    store.set(f"{READY}/{rank}", names[0])
    return names[0]


def _said(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _wait(missing: Callable[[], list[int]], timeout: timedelta) -> None:
    until = time.monotonic() + timeout.total_seconds()
    while ranks := missing():
        if time.monotonic() > until:
            raise RanksError(
                f"rank {', '.join(map(str, ranks))} did not come within {timeout.total_seconds():.0f} seconds; look at "
                "what it printed last, and start the same command on every node"
            )
        time.sleep(PAUSE)

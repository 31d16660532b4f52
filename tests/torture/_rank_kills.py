"""Commands over two ranks, of which one or both are killed at any moment, and given again over one rank or two."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from _kills import Job, leftovers
from _report import Result
from _server import Command, Ended
from _world import World, differing, tree

RANKS = 2
TIMEOUT = "20"  # seconds after which a rank that does not answer is given up


def rank_jobs_of(world: World, names: str = "") -> list[Job]:
    """Return every job whose name contains ``names``; their results have the same bytes for one rank and for two."""
    jobs = []
    for mode, more in (("feedback", ("--batch-size", "2")), ("feedback", ()), ("frozen", ())):
        for every in ("1samples", "300"):
            words = ["--out", "run", "--mode", mode, "--save-every", every, *more]
            name = f"search {mode}{' of two' if more else ''}, --save-every {every}"
            jobs.append(Job(name, world.words("search", *words, text="text.txt")))
    search = world.words("search", "--out", "run", "--mode", "frozen", text="text.txt")
    project = ["project", str(world.folder / "sharded"), "run", "--out", "pruned", "--backend", "cpu"]
    search[1] = str(world.folder / "sharded")
    jobs.append(Job("project", [*project, "--sparsity", "60%/global", "--sparsity", "2:4"], [search]))
    jobs.append(Job("prune", world.words("prune", "--out", "pruned", "--sparsity", "60%", text="text.txt")))
    return [job for job in jobs if names in job.name]


def kill_ranks(job: Job, folder: Path, chance: random.Random) -> Result:
    """Kill one rank, or both, at a random moment, and give the command again."""
    work = job.start(folder / "work")
    victims = chance.choice(((0,), (1,), (0, 1)))
    delay = chance.uniform(0.0, 2.5 * job.seconds)
    commands = _started(job.words, work)
    time.sleep(max(0.0, commands[0].began + delay - time.monotonic()))
    for victim in victims:
        commands[victim].signal(signal.SIGKILL)
    where = f"rank {' and '.join(map(str, victims))} after {delay:.2f} s"
    fault = None
    for rank, ended in enumerate([command.ended() for command in commands]):
        if rank not in victims and not ended.done and (ended.fault or not _names(ended, rank, victims)):
            fault = f"rank {rank} ended with {ended.fault or ended.status}: {ended.last}"
    return Result("rank kill", job.name, where, fault or _goes_on(job, work, chance))


def _names(ended: Ended, rank: int, victims: Sequence[int]) -> bool:
    """Return whether a rank that was not killed says why it ends, or which one never came."""
    never = (f"rank {victim} did not come" in ended.text for victim in victims)
    told = (f"rank {rank} {what}" in ended.text for what in ("stops, since", "found no rank 0"))
    return any((*told, *never))


def _goes_on(job: Job, work: Path, chance: random.Random) -> str | None:
    over_ranks = chance.random() < 0.7
    commands = _started(job.words, work) if over_ranks else [Command(job.words, work)]
    found = [command.ended() for command in commands]
    assert job.wanted is not None
    wrong = differing(tree(work), job.wanted) or leftovers(work)
    # refused where the first had finished; one rank tells of it for all
    refused = any(ended.refused for ended in found) and all(ended.silent or not ended.fault for ended in found)
    if wrong or not (refused or all(ended.done for ended in found)):
        ends = "; ".join(f"{ended.fault or ended.status}: {ended.last}" for ended in found)
        return f"given again: {ends} ({wrong})"
    return None


def _started(words: Sequence[str], work: Path) -> list[Command]:
    """Start a command on every rank, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"UNIPRUNING_RANK_TIMEOUT": TIMEOUT, "GLOO_SOCKET_IFNAME": "lo"}
    return [
        Command(words, work, partial(os.environ.update, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(RANKS)
    ]

"""Commands over several processes, started with the variables that torchrun sets, without its own seconds of start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECONDS = 120.0


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The sentences about errors."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


COMMAND = ("-m", "unipruning_core")


def start(
    words: Sequence[object],
    ranks: int,
    others: Mapping[int, Sequence[object]] = {},
    timeout: float = 60,
    program: Sequence[str] = COMMAND,
) -> list[subprocess.Popen[str]]:
    """Start a command on so many ranks; ``others`` has the words of ranks with another one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "UNIPRUNING_RANK_TIMEOUT": str(timeout),
    }
    return [
        subprocess.Popen(
            [sys.executable, *program, *map(str, others.get(rank, words))],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def ended(processes: Sequence[subprocess.Popen]) -> list[Ended]:
    """Wait for every rank, and return how it ended."""
    told = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=SECONDS)
            told.append(Ended(process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return told


def launch(
    words: Sequence[object],
    ranks: int,
    others: Mapping[int, Sequence[object]] = {},
    program: Sequence[str] = COMMAND,
) -> list[Ended]:
    """Run a command, or another program, on so many ranks."""
    return ended(start(words, ranks, others, program=program))

"""Attacks on every command: python tests/torture [ATTACK...]; the exit code is 1 if one of them found a fault."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _crafted import attempt
from _crafted_commands import crafted_commands
from _crafted_files import crafted_files
from _damage import damage, kinds_of, make_template
from _fuzzing import fuzz, readers
from _kills import jobs_of, kill, stop
from _pairs import pairs_of, race
from _rank_kills import kill_ranks, rank_jobs_of
from _report import Result, shortened, table, write
from _server import Command, cleared, prepare
from _world import World, make_world

# a case is a function of a folder of its own and of its own source of chance
Case = Callable[[Path, random.Random], Result]
COUNTS = {"kills": 400, "signals": 40, "damage": 1000, "pairs": 50, "ranks": 60}
ATTACKS = [*COUNTS, "crafted", "fuzz"]


def main() -> int:
    parser = argparse.ArgumentParser("tests/torture", description=__doc__)
    parser.add_argument("attacks", nargs="*", default=[], metavar="ATTACK", help=f"{', '.join(ATTACKS)} (default: all)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the cases to run (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only kinds whose name contains this")
    parser.add_argument("--fuzz-seconds", type=int, default=60, help="for each reader (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="cases at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := sorted(set(options.attacks) - set(ATTACKS)):
        parser.error(f"there is no attack {unknown[0]!r}; name some of {', '.join(ATTACKS)}")
    # a shell lets commands in the background ignore some signals, and so would the commands that are told to stop
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=_memory_disk()) as place:
        results = attack(options, Path(place))
    print(table(results))
    seconds = round(time.monotonic() - began)
    print(
        f"\nseed {options.seed}, {len(results)} cases, {sum(r.fault is not None for r in results)} faults, {seconds} s"
    )
    if options.json:
        write(results, options.json, {"seed": options.seed, "fraction": options.fraction, "seconds": seconds})
    return int(any(result.fault for result in results))


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def attack(options: argparse.Namespace, place: Path) -> list[Result]:
    """Run the attacks in as many processes as are wanted."""
    prepare()
    made = Command.calling(lambda: int(make_world(place / "world") is None), cleared(place / "making")).ended()
    if not made.done:
        raise RuntimeError(made.text)
    world = World(place / "world")
    cases = []
    for name in options.attacks or ATTACKS:
        cases += _cases(name, world, cleared(place / name), options)
    workers = [_worker(cases, share, options, cleared(place / f"worker-{share}")) for share in range(options.workers)]
    results = {}
    for pid, file in workers:
        _, status = os.waitpid(pid, 0)
        results |= {index: Result(**case) for index, case in json.loads(file.read_text())}
        if status:
            raise RuntimeError("a worker failed, as it says above")
    return [results[index] for index in sorted(results)]


def _cases(name: str, world: World, folder: Path, options: argparse.Namespace) -> list[Case]:
    """Return the cases of one attack, each kind in turn; what they need is made here."""
    count = max(1, round(COUNTS.get(name, 0) * options.fraction))
    template = folder / "template"
    if name in ("damage", "crafted", "fuzz"):
        make_template(world, template)
    if name == "fuzz":
        return [partial(fuzz, reader, template, options.fuzz_seconds) for reader in readers() if options.only in reader]
    if name == "crafted":
        crafted = [case for case in (*crafted_files(), *crafted_commands()) if options.only in case.name]
        return [partial(attempt, case, template) for case in _spread(crafted, round(len(crafted) * options.fraction))]
    if name == "damage":
        kinds = _prepared(kinds_of(template, options.only), count, folder)
        return [partial(damage, kinds[index % len(kinds)]) for index in range(count)]
    if name == "pairs":
        pairs = _prepared(pairs_of(world, options.only), count, folder)
        return [partial(race, pairs[index % len(pairs)]) for index in range(count)]
    if name == "ranks":
        over_ranks = _prepared(rank_jobs_of(world, options.only), count, folder)
        return [partial(kill_ranks, over_ranks[index % len(over_ranks)]) for index in range(count)]
    jobs = jobs_of(world, options.only)
    if name == "signals":
        jobs = [job for job in jobs if "compare" not in job.name and "demo" not in job.name]
    jobs = _prepared(jobs, count, folder)
    one, every = (kill, 3) if name == "kills" else (stop, 2)
    # two of three kills come just before a change on disk, half of the signals within the loop
    return [partial(one, jobs[i % len(jobs)], special=(i // len(jobs) + i) % every > 0) for i in range(count)]


def _prepared(kinds: Sequence[Any], count: int, folder: Path) -> Sequence[Any]:
    """Prepare as many kinds as will be tried."""
    chosen = _spread(kinds, count)
    for index, kind in enumerate(chosen):
        kind.prepare(folder / f"kind-{index}")
    return chosen


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` items, from all of the list; none is a mistake of --only."""
    if not items:
        raise SystemExit("no kind of this attack has such a name; see --only")
    return [items[index * len(items) // count] for index in range(count)] if count < len(items) else list(items)


def _worker(cases: Sequence[Case], share: int, options: argparse.Namespace, folder: Path) -> tuple[int, Path]:
    """Fork a process that runs each ``workers``-th case and writes the results to the file."""
    file = folder / "results.json"
    if (pid := os.fork()) == 0:
        status = 1
        try:
            done = []
            for index in range(share, len(cases), options.workers):
                chance = random.Random(f"{options.seed} {index}")
                result = cases[index](cleared(folder / "case"), chance)
                done.append((index, vars(result)))
                if result.fault:
                    print(f"{result.kind}, {result.where}: {shortened(result.fault)}", file=sys.stderr, flush=True)
            file.write_text(json.dumps(done))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid, file


if __name__ == "__main__":
    sys.exit(main())

"""Commands killed or told to stop at any moment, and given again."""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _changes import Changes
from _report import Result
from _server import Command, Ended, cleared
from _world import MODES, World, differing, must, run, tree

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138, signal.SIGUSR2: 140}
ATTEMPTS = 3
TWICE = 0.3  # of the kills that are followed by one of the command that goes on
ENDING = 0.5  # seconds in which a command whose work is done may still end as it would have


@dataclass
class Job:
    """A command, the folder it starts in, and how it ends undisturbed."""

    name: str
    words: Sequence[str]
    before: Sequence[Sequence[str]] = ()  # what made an old result
    old: dict[str, str] | None = None
    wanted: dict[str, str] | None = None
    template: Path | None = None
    seconds: float = 0.0
    changes: int = 0

    def prepare(self, folder: Path) -> None:
        """Run it undisturbed, and count its changes on disk."""
        self.template = cleared(folder / "template")
        for words in self.before:
            must(words, self.template)
        self.old = tree(self.template) if self.before else None
        undisturbed = self.start(folder / "undisturbed")
        changes = Changes(undisturbed)
        ended = Command(self.words, undisturbed, changes.watch).ended()
        if not ended.done:
            raise RuntimeError(f"{self.name} failed undisturbed: {ended.text}")
        self.wanted, self.seconds, self.changes = tree(undisturbed), ended.seconds, changes.count

    def start(self, folder: Path) -> Path:
        """Return a folder with what is there before the command."""
        assert self.template is not None
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        return folder


def jobs_of(world: World, names: str = "") -> list[Job]:
    """Return every job whose name contains ``names``."""
    jobs = []
    for mode in MODES:
        for every, text in (("0", "text.txt"), ("2samples", "text.txt"), ("300", "text.jsonl")):
            words = world.words("search", "--out", "run", "--mode", mode, "--save-every", every, text=text)
            jobs.append(Job(f"search {mode}, --save-every {every}", words))
        old = world.words("search", "--out", "run", "--mode", mode, "--seed", "7", text="text.txt")
        words = world.words("search", "--out", "run", "--mode", mode, "--save-every", "0", text="text.txt")
        jobs.append(Job(f"search {mode} --overwrite", [*words, "--overwrite"], [old]))
    search = world.words("search", "--out", "run", "--mode", "frozen", text="text.txt")
    several = ["--sparsity", "50%", "--sparsity", "2:4", "--sparsity", f"@{world.folder / 'budget.json'}"]
    other = world.words("search", "--out", "other", "--mode", "frozen", "--seed", "7", text="text.txt")
    project = ["project", str(world.folder / "model"), "run", "--out", "pruned", "--backend", "cpu"]
    for name, sparsities in (("one sparsity", ["--sparsity", "60%"]), ("several sparsities", several)):
        words = [*project, *sparsities]
        jobs.append(Job(f"project, {name}", words, [search]))
        old = ["other" if word == "run" else word for word in words]
        jobs.append(Job(f"project --overwrite, {name}", [*words, "--overwrite"], [search, other, old]))
    prune = world.words("prune", "--out", "pruned", "--sparsity", "60%", "--mode", "drift", text="text.txt")
    jobs.append(Job("prune", prune))
    jobs.append(Job("prune --overwrite", [*prune, "--overwrite"], [[*prune, "--seed", "3"]]))
    evaluation = ["--windows", "2", "--eval-seq-len", "16", "--eval-data", str(world.folder / "text.txt")]
    methods = ["--methods", "magnitude,wanda", "--sparsity", "50%"]
    jobs.append(Job("compare", world.words("compare", "--out", "table", *methods, *evaluation, text="text.txt")))
    demo = ["--samples", "4", "--seq-len", "16", "--windows", "1", "--out", "demo", "--backend", "cpu"]
    texts = ["--data", str(world.folder / "text.txt"), "--eval-data", str(world.folder / "text.txt")]
    jobs.append(Job("demo", ["demo", "--model", str(world.folder / "model"), *texts, *demo]))
    return [job for job in jobs if names in job.name]


def kill(job: Job, folder: Path, chance: random.Random, *, special: bool) -> Result:
    """Kill a job, at a random moment or just before a random change on disk, and give it again until it ends.

    Some are killed again when they go on.
    """
    for attempt in range(6):
        work = job.start(folder / "work")
        if special:
            point = chance.randint(1, job.changes)
            where = f"before change {point} of {job.changes}"
            first = Command(job.words, work, Changes(work, point).watch).ended()
        else:
            # a machine that became faster ends before; then earlier
            delay = chance.uniform(0.0, job.seconds / (1 + attempt))
            where = f"after {delay:.2f} s"
            first = _interrupted(job, work, lambda command, delay=delay: _after(command, delay, signal.SIGKILL))
        if first.status == -signal.SIGKILL and not first.hung:
            break
    else:
        return Result("kill", job.name, where, "never killed: it ended first, six times")
    fault = _old_is_lost(job, work)
    if fault is None and chance.random() < TWICE:
        point = chance.randint(1, job.changes)
        second = Command(job.words, work, Changes(work, point).watch).ended()
        where += f", again before change {point}" if second.status == -signal.SIGKILL else ", ended before the second"
        fault = "hang after a kill" if second.hung else _old_is_lost(job, work)
    return Result("kill", job.name, where, fault or _goes_on(job, work))


def _interrupted(job: Job, work: Path, interrupt: Callable[[Command], None]) -> Ended:
    command = Command(job.words, work)
    interrupt(command)
    return command.ended()


def _after(command: Command, delay: float, number: int) -> None:
    time.sleep(max(0.0, command.began + delay - time.monotonic()))
    command.signal(number)


def _old_is_lost(job: Job, work: Path) -> str | None:
    """Say so if neither the old result is whole, under any name, nor the new one."""
    if job.old is None or job.wanted is None:
        return None
    there = {(Path(name).name, digest) for name, digest in tree(work).items()}
    for unit in {Path(name).parent for name in job.old}:
        results = [
            {(Path(n).name, d) for n, d in result.items() if Path(n).parent == unit} for result in (job.old, job.wanted)
        ]
        if not any(result and result <= there for result in results):
            return f"old result lost: '{unit}' is neither whole as it was nor as it becomes"
    return None


def _goes_on(job: Job, work: Path, *, saved: bool = False) -> str | None:
    """Give the command again until it ends; return what is wrong with how, or with what it had saved."""
    for _ in range(ATTEMPTS):
        again = run(job.words, work)
        if again.fault:
            return f"{again.fault}: {again.last}"
        if saved and not re.search(r"after sample [1-9]", again.text):
            return "nothing was saved when told to stop"
        if again.done:
            break
    assert job.wanted is not None
    wrong = differing(tree(work), job.wanted) or leftovers(work)
    if not again.done and wrong:
        return f"cannot be given again: {again.last} ({wrong})"
    return wrong


def leftovers(work: Path) -> str | None:
    """Say what lies in the temporary folder."""
    left = sorted(path.name for path in (work / "tmp").iterdir()) if (work / "tmp").is_dir() else []
    return f"leftover in the temporary folder: {', '.join(left[:4])}" if left else None


def stop(job: Job, folder: Path, chance: random.Random, *, special: bool) -> Result:
    """Send a job a signal, at a random moment or within the loop over the samples, and give it again."""
    number = chance.choice(sorted(STATUS))
    work = job.start(folder / "work")
    sample = chance.randint(1, 3)
    in_loop, delay = special and "search" in job.name, 0.0
    if in_loop:
        where = f"{signal.Signals(number).name} in sample {sample + 1}"
        ended = Command(job.words, work, functools.partial(_signal_at_forward, number, sample)).ended()
    else:
        delay = chance.uniform(0.05, job.seconds)
        where = f"{signal.Signals(number).name} after {delay:.2f} s"
        ended = _interrupted(job, work, lambda command: _after(command, delay, number))
    fault = None
    if ended.hung or "Traceback (most" in ended.text:
        fault = f"{'hang' if ended.hung else 'traceback'}: {ended.last}"
    elif ended.status == 0 and not in_loop and ended.seconds > delay + ENDING:
        fault = f"went on for {ended.seconds - delay:.2f} s: {ended.last}"
    elif ended.status not in ([STATUS[number]] if in_loop else [STATUS[number], -number, 0]):
        fault = f"exit {ended.status} instead of {STATUS[number]}: {ended.last}"
    saved = in_loop and "--overwrite" not in job.words and "was finished first" not in ended.text
    fault = fault or _old_is_lost(job, work) or _goes_on(job, work, saved=saved)
    return Result("signal", job.name, where, fault, "" if fault is None else ended.last)


def _signal_at_forward(number: int, sample: int) -> None:
    """Send this process a signal when the model runs for the nth time."""
    from transformers.models.llama.modeling_llama import LlamaModel

    forward, seen = LlamaModel.forward, [0]

    @functools.wraps(forward)
    def counted(*arguments: object, **options: object) -> object:
        seen[0] += 1
        if seen[0] == sample + 1:
            os.kill(os.getpid(), number)
        return forward(*arguments, **options)

    LlamaModel.forward = counted

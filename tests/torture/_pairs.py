"""Two commands at once on one folder: one goes on, the other says who holds it, and no result is mixed or lost."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _kills import leftovers
from _report import Result
from _server import Command, Ended, cleared
from _world import World, differing, must, run, tree


@dataclass
class Pair:
    """Two commands and what the folder may hold afterwards; ``before`` made what is there when they start."""

    name: str
    words: tuple[list[str], list[str]]
    before: list[list[str]]
    template: Path | None = None
    allowed: tuple[dict[str, str], ...] = ()
    seconds: float = 0.0

    def prepare(self, folder: Path) -> None:
        """Run each alone, and one after the other."""
        self.template = cleared(folder / "template")
        for words in self.before:
            must(words, self.template)
        allowed = []
        for order in ((0,), (1,), (0, 1), (1, 0)):
            alone = shutil.copytree(self.template, cleared(folder / "alone"), dirs_exist_ok=True)
            ended = [run(self.words[index], alone) for index in order]
            if not ended[0].done:
                raise RuntimeError(f"{self.name} failed alone: {ended[0].text}")
            self.seconds = max(self.seconds, ended[0].seconds)
            allowed.append(tree(alone))
        self.allowed = tuple(allowed)


def pairs_of(world: World, names: str = "") -> list[Pair]:
    """Return every pair whose name contains ``names``."""

    def search(*more: str) -> list[str]:
        return world.words("search", "--out", "run", "--mode", "drift", "--samples", "12", *more, text="text.txt")

    def prune(*more: str) -> list[str]:
        return world.words("prune", "--out", "pruned", "--mode", "frozen", *more, text="text.txt")

    old = search("--seed", "9")
    project = ["project", str(world.folder / "model"), "run", "--out", "pruned", "--backend", "cpu", "--sparsity"]
    evaluation = ["--windows", "2", "--eval-seq-len", "16", "--eval-data", str(world.folder / "text.txt")]
    table = world.words("compare", "--out", "table", *evaluation, "--sparsity", "50%", "--methods", text="text.txt")
    save = ("--save-every", "0")
    pairs = [
        Pair("search, equal", (search(), search()), []),
        Pair("search, equal, --save-every 0", (search(*save), search(*save)), []),
        Pair("search, other seeds", (search(), search("--seed", "1")), []),
        Pair("search, other seeds, --save-every 0", (search(*save), search(*save, "--seed", "1")), []),
        Pair("search, both --overwrite", (search("--overwrite"), search("--seed", "1", "--overwrite")), [old]),
        Pair("prune, equal", (prune("--sparsity", "60%"), prune("--sparsity", "60%")), []),
        Pair("prune, other sparsities", (prune("--sparsity", "60%"), prune("--sparsity", "2:4")), []),
        Pair("project, other sparsities", ([*project, "60%"], [*project, "50%"]), [old]),
        Pair("project, both --overwrite", ([*project, "60%", "--overwrite"], [*project, "60%", "--overwrite"]), [old]),
        Pair("compare, equal", ([*table, "magnitude"], [*table, "magnitude"]), []),
    ]
    return [pair for pair in pairs if names in pair.name]


def race(pair: Pair, folder: Path, chance: random.Random) -> Result:
    """Start one, the other a little later, and look at what came out."""
    assert pair.template is not None
    work = shutil.copytree(pair.template, cleared(folder / "work"), dirs_exist_ok=True)
    delay = chance.uniform(0.0, pair.seconds * chance.choice((0.05, 0.5, 1.0)))
    first, second = pair.words if chance.random() < 0.5 else pair.words[::-1]
    commands = [Command(first, work)]
    time.sleep(delay)
    commands.append(Command(second, work))
    ended = [command.ended() for command in commands]
    where, fault = f"the second {delay:.2f} s later", None
    if any(one.fault for one in ended):
        fault = "; ".join(f"{one.fault}: {one.last}" for one in ended if one.fault)
    elif not any(one.done for one in ended):
        fault = f"both refused: {ended[0].last}; {ended[1].last}"
    elif (found := tree(work)) not in pair.allowed:
        fault = f"mixed: {differing(found, pair.allowed[0])}"
    elif all(one.done for one in ended) and "--overwrite" not in first and "compare" not in first[0]:
        fault = "both ended well, one of them for nothing"
    elif ended[0].refused:
        fault = _who_holds_it(ended, (0.0, delay))
    elif ended[1].refused:
        fault = _who_holds_it(ended[::-1], (delay, 0.0))
    outcomes = " and ".join(sorted("done" if one.done else "refused" for one in ended))
    return Result("pair", pair.name, where, fault or leftovers(work), outcome=outcomes)


def _who_holds_it(ended: Sequence[Ended], starts: Sequence[float]) -> str | None:
    """Return what is wrong with what the first said, which was refused, if the second was at work at that time."""
    ends = [start + one.seconds for start, one in zip(starts, ended, strict=True)]
    accident = any(word in ended[0].last for word in ("No such file", "not empty", "damaged", "be written", "busy"))
    # not of a result that was ready some moments before its command ended
    if accident and starts[1] < ends[0] < ends[1] - 0.3:
        return f"the other did not say who holds the folder: {ended[0].last}"
    return None

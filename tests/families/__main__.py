"""Every family of the installed transformers, pruned and checked: python tests/families [FAMILY...]."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# the process from which commands are forked is that of the torture
sys.path.append(str(HERE.parent / "torture"))

from _making import Family, families, save_text
from _server import Command, cleared, prepare
from _table import summary, table
from _trial import Outcome, trial

# what most models of transformers import, and each family would for itself
MODULES = ("generation.utils", "integrations.moe", "masking_utils", "modeling_layers", "modeling_rope_utils")
LIMIT = 600.0  # seconds for a family
PLACE = 4  # bytes of a family's place in the list


def main() -> int:
    parser = argparse.ArgumentParser("tests/families", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="only these (default: all)")
    parser.add_argument(
        "--expected", type=Path, metavar="FILE", help="the families of this file, and what comes of them"
    )
    parser.add_argument("--jobs", type=int, default=2, help="families at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the results as a table in Markdown")
    options = parser.parse_args()
    expected = json.loads(options.expected.read_text()) if options.expected else {}
    prepare()
    for name in MODULES:
        importlib.import_module(f"transformers.{name}")
    chosen = _chosen(options.families or list(expected), parser)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="families-") as place:
        outcomes = run(chosen, options.jobs, Path(place))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    if options.table:
        options.table.write_text(table(outcomes))
    print(f"\n{summary(outcomes)}, {time.monotonic() - began:.0f} s")
    wrong = [line for outcome in outcomes if (line := _surprise(outcome, expected))]
    print(*wrong, sep="\n")
    return int(bool(wrong))


def _chosen(names: Sequence[str], parser: argparse.ArgumentParser) -> list[Family]:
    found = families()
    if unknown := sorted(set(names) - {family.label for family in found}):
        parser.error(f"this transformers has no family {unknown[0]!r}")
    return [family for family in found if not names or family.label in names]


def _surprise(outcome: Outcome, expected: dict[str, str]) -> str:
    """Return what is not as expected: a fault, or another outcome than the file states."""
    label = Family(outcome.family, outcome.kind).label
    wanted = expected.get(label)
    if outcome.outcome == wanted or (wanted is None and outcome.outcome != "fault"):
        return ""
    return f"{label}: {outcome.outcome}, {wanted or 'no fault'} was expected; {outcome.step}: {outcome.reason}"


def run(chosen: Sequence[Family], jobs: int, folder: Path) -> list[Outcome]:
    """Try the families in as many processes as there are jobs; each takes the next from a pipe."""
    cleared(folder / "families")
    save_text(folder / "text.jsonl")
    reading, writing = os.pipe()
    os.write(writing, b"".join(place.to_bytes(PLACE, "big") for place in range(len(chosen))))
    os.close(writing)
    began = time.monotonic()
    workers = []
    for _ in range(jobs):
        if (pid := os.fork()) == 0:
            _work(chosen, reading, folder, began)
        workers.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in workers):
        raise RuntimeError("a worker failed, as it says above")
    return [Outcome(**json.loads(_result(folder, family).read_text())) for family in chosen]


def _result(folder: Path, family: Family) -> Path:
    return folder / "families" / f"{family.label}.json"


def _work(chosen: Sequence[Family], reading: int, folder: Path, began: float) -> None:
    status = 1
    try:
        while taken := os.read(reading, PLACE):
            place = int.from_bytes(taken, "big")
            family = chosen[place]
            outcome = _one(family, cleared(folder / "families" / family.label), folder / "text.jsonl")
            _result(folder, family).write_text(json.dumps(asdict(outcome)))
            left = (time.monotonic() - began) / (place + 1) * (len(chosen) - place - 1) / 60
            done = f"{place + 1}/{len(chosen)} {family.label}: {outcome.outcome} in {outcome.seconds:.0f} s"
            print(f"{done}, {left:.0f} min left", flush=True)
        status = 0
    finally:
        os._exit(status)


def _one(family: Family, folder: Path, text: Path) -> Outcome:
    """Try one family in a process of its own, which may die."""
    ended = Command.calling(lambda: int(trial(family, folder, text) is None), folder).ended(LIMIT)
    file = folder / "outcome.json"
    outcome = Outcome(**_read(file)) if file.exists() else Outcome(family.name, family.kind, reason=ended.last)
    if not ended.done:
        outcome.outcome = "fault" if outcome.weights else "unbuilt"
        outcome.reason = "hung" if ended.hung else ended.last
    outcome.seconds = round(ended.seconds, 1)
    shutil.rmtree(folder)
    return outcome


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


if __name__ == "__main__":
    sys.exit(main())

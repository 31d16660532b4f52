"""One family: made, searched, projected and checked, with what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _checks import SPARSITIES, CheckError, Runs, check, logits, written
from _making import Family, auto_class, embedding_weights, expert_tensors, layout, make, others, tensors
from _server import Command, cleared

MODES = ("feedback", "frozen")
COMMAND_LIMIT = 120.0  # seconds
UNEXPECTED = "this is a fault of the program"
ENOUGH = 0.95  # of the experts' weights must be targets


@dataclass
class Outcome:
    """What came of one family."""

    family: str
    kind: str
    outcome: str = "unbuilt"  # passed, experts dense, refused, late (refused after the search), fault, unbuilt
    step: str = "building"
    reason: str = ""  # the last line of what failed
    model: str = ""  # its class
    layout: str = ""  # of the experts in the file
    weights: int = 0
    embeddings: int = 0
    experts: int = 0  # weights of experts
    forward: str = ""  # why plain transformers runs no forward on tokens alone
    needs: str = ""  # with which other inputs it does
    generation: str = ""  # why it writes no text
    modes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def trial(family: Family, folder: Path, text: Path) -> Outcome:
    """Try all of it; what goes wrong is part of the outcome."""
    outcome = Outcome(family.name, family.kind)
    model = folder / "model"
    try:
        _build(family, model, outcome)
    except Exception as error:  # of any kind: transformers' own
        outcome.reason = _said(error)
        return outcome
    finally:
        _write(outcome, folder)
    ways = [_try_mode(mode, family, model, folder, text, outcome) for mode in MODES]
    worst = ("fault", "late", "refused", "experts dense", "passed")
    outcome.outcome, outcome.step, outcome.reason = min(ways, key=lambda way: worst.index(way[0]))
    _write(outcome, folder)
    return outcome


def _write(outcome: Outcome, folder: Path) -> None:
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))


def _build(family: Family, folder: Path, outcome: Outcome) -> None:
    model = make(family, folder)
    outcome.model = type(model).__name__
    stored = tensors(folder)
    outcome.weights = sum(tensor.numel() for tensor in stored.values())
    outcome.embeddings = embedding_weights(model)
    outcome.experts = sum(stored[name].numel() for name in expert_tensors(stored))
    outcome.layout = layout(stored, 64)
    outcome.forward, made = _attempt(lambda: logits(model))
    if made is None:
        outcome.needs = next((name for name, more in others(model).items() if _attempt(partial(model, **more))[1]), "")
        return
    outcome.generation, _ = _attempt(lambda: written(model))
    failure, loaded = _attempt(lambda: logits(_loaded(family, folder)))
    if loaded is None:
        raise ValueError(f"transformers does not load what it saved: {failure}")
    if not torch.equal(made, loaded):
        raise ValueError("transformers loads another model than it saved")


def _attempt(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return why a call fails, or what it returns."""
    try:
        with torch.no_grad():
            return "", call()
    except Exception as error:  # of any kind: transformers' own
        return _said(error), None


def _loaded(family: Family, folder: Path) -> Any:
    return auto_class(family.kind).from_pretrained(folder, dtype=torch.float32).eval()


def _try_mode(
    mode: str, family: Family, model: Path, folder: Path, text: Path, outcome: Outcome
) -> tuple[str, str, str]:
    """Return what came of one mode, at which step, and why."""
    run, out = folder / f"run-{mode}", folder / f"out-{mode}"
    search = ["search", str(model), "--out", str(run), "--mode", mode, "--data", str(text)]
    search += ["--samples", "4", "--seq-len", "64", "--backend", "cpu"]
    project = ["project", str(model), str(run), "--out", str(out), "--backend", "cpu"]
    for sparsity in SPARSITIES.values():
        project += ["--sparsity", sparsity]
    done = outcome.modes[mode] = {}
    for words in (search, project):
        ended = Command(words, cleared(folder / "working")).ended(COMMAND_LIMIT)
        last = (ended.text.strip().splitlines() or [""])[-1].replace(f"{folder}/", "")
        done[words[0]] = {"code": ended.status, "said": "" if ended.done else last}
        if not ended.done:
            kind = "fault" if ended.fault or UNEXPECTED in last else "refused" if words is search else "late"
            return kind, f"{mode} {words[0]}", last
    for name in SPARSITIES:
        try:
            runs = Runs(logits=not outcome.forward, text=not (outcome.forward or outcome.generation))
            done[name] = check(out / name, model, name, lambda path: _loaded(family, path), runs)
        except CheckError as fault:
            return "fault", f"{mode} {name}", str(fault)
        except Exception as error:  # of any kind: the output cannot be loaded or run
            return "fault", f"{mode} {name}", _said(error)
    # at half of each row twice what was pruned are targets
    targets = 2 * done["50-row"]["experts"]
    if targets < ENOUGH * outcome.experts:
        reason = f"{targets / outcome.experts:.0%} of the experts' weights are targets"
        return "experts dense", f"{mode} search", reason
    return "passed", "", ""


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]

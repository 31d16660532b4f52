"""The demonstration: one search on a real model, several sparsities from it, and their costs in one table.

Every stage is a separate command, run as a user would run it, so the table's seconds and peak memory are those of
whole commands, and every printed command can be repeated by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unipruning_core.progress import Progress
from unipruning_core.projection.report import read_report
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.storage.holding import holding, scratch
from unipruning_core.tools.demo.assets import demo_model, demo_texts
from unipruning_core.tools.processes import Commands, Stage, run_in_subprocess

EVALUATION_WINDOW = 1024  # tokens


@dataclass(frozen=True)
class DemoChoice:
    """What the demonstration prunes and measures; None stands for its own small model and texts."""

    model: str | None
    revision: str | None
    data: str | None
    eval_data: str | None
    sparsities: Sequence[str]
    samples: int
    seq_len: int
    windows: int
    mode: str
    out: Path | None
    backend: str | None


def run_demo(choice: DemoChoice, progress: Progress) -> str:
    """Search, project, evaluate; return the table and what to try next.

    Raises:
        UnipruningError: a stage failed, after printing its own message.
    """
    parsed = [parse_sparsity(text) for text in choice.sparsities]
    check_distinct(parsed)
    if choice.model is None:
        progress.note("model: SmolLM2-135M-Instruct, downloaded (93 MB) and converted the first time")
    fetch = partial(_assets, choice)
    needs_own = None in (choice.model, choice.data, choice.eval_data)
    model, calibration, evaluation = run_in_subprocess(fetch) if needs_own else fetch()
    backend = ["--backend", choice.backend] if choice.backend else []
    apart = [(name, Path(path)) for name, path in (("model", model), ("text", calibration), ("text", evaluation))]
    with ExitStack() as stack:
        if choice.out is None:
            folder, lock = stack.enter_context(scratch("demo", "unipruning-demo-"))
        else:
            folder = choice.out
            lock = stack.enter_context(holding(folder, "demo", "a demonstration", apart=_existing(apart)))
        run, pruned = folder / "run", folder / "pruned"

        commands = stack.enter_context(Commands(progress, (lock,)))

        def command(*words: str) -> Stage:
            return commands.run([*words, *backend])

        search_arguments = ["--data", calibration, "--samples", str(choice.samples), "--seq-len", str(choice.seq_len)]
        # what is in a marked folder is of an earlier demonstration, perhaps of one that was killed
        search_arguments += ["--mode", choice.mode, "--overwrite"]
        pinned = ["--revision", choice.revision] if choice.revision else []
        search = command("search", model, *pinned, "--out", str(run), *search_arguments)
        sparsity_arguments = [word for text in choice.sparsities for word in ("--sparsity", text)]
        project = command("project", model, str(run), *pinned, *sparsity_arguments, "--out", str(pruned), "--overwrite")
        checkpoints = [pruned / sparsity.slug for sparsity in parsed] if len(parsed) > 1 else [pruned]
        text = ["--data", evaluation, "--seq-len", str(EVALUATION_WINDOW), "--windows", str(choice.windows), "--json"]
        evaluation_stage = command("perplexity", model, *map(str, checkpoints), *pinned, *text)
        perplexities = [json.loads(line)["perplexity"] for line in evaluation_stage.output.splitlines()]
        zeros = [f"{read_report(checkpoint)['overall']['zero_share']:.2%}" for checkpoint in checkpoints]
    names = ["dense", *map(str, parsed)]
    rows = [_quality(*values) for values in zip(names, perplexities, ["", *zeros], strict=True)]
    rows += [
        _cost("one search", search),
        _cost(f"{len(parsed)} checkpoints", project),
        _cost(f"{len(rows)} perplexities", evaluation_stage),
    ]
    return "\n".join([_heading(), *rows, "", _next(choice, model, run)])


def _existing(paths: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Leave out the names of models and data sets on the hub."""
    return [(name, path) for name, path in paths if os.path.exists(path)]


def _assets(choice: DemoChoice) -> tuple[str, str, str]:
    """Return the model, the calibration text and the evaluation text, fetched where they are our own."""
    model = choice.model or str(demo_model())
    if choice.data is not None and choice.eval_data is not None:
        return model, choice.data, choice.eval_data
    calibration, evaluation = demo_texts()
    return model, choice.data or str(calibration), choice.eval_data or str(evaluation)


def _heading() -> str:
    return f"\n{'':16} {'perplexity':>10} {'zeros':>8} {'seconds':>8} {'peak memory':>12}"


def _quality(label: str, perplexity: float | None, zeros: str) -> str:
    return f"{label:16} {'infinite' if perplexity is None else f'{perplexity:.2f}':>10} {zeros:>8}".rstrip()


def _cost(label: str, stage: Stage) -> str:
    return f"{label:16} {'':>10} {'':>8} {stage.seconds:8.1f} {stage.peak_mib:8.0f} MiB"


def _next(choice: DemoChoice, model: str, run: Path) -> str:
    lines = [
        f"Perplexity: the first {choice.windows} windows of {EVALUATION_WINDOW} tokens; zeros: fraction of the",
        "target weights, counted in the files; seconds and memory: of each command, in a process that has imported",
        "what it needs.  One search gave every sparsity.",
        "",
        "Try next:",
    ]
    if choice.out is not None:
        lines.append(f"  unipruning project {model} {run} --sparsity 70%/global --out {choice.out / '70-global'}")
    else:
        lines.append(
            "  unipruning demo --out demo                                      keep the run folder and checkpoints"
        )
    lines += [
        "  unipruning demo --sparsity 50%/matrix --sparsity 60%/matrix     a ratio for each matrix alone",
        "  unipruning demo --mode frozen                                   forward passes only, worse masks",
        "  unipruning prune YOUR-MODEL --sparsity 60% --out DIR --data YOUR-TEXT.jsonl",
    ]
    return "\n".join(lines)

"""The figures of an evaluation, as the table of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError
from unipruning_core.projection.card import cell, put_figures
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.documents import is_number, member, read_object

STDERR, DIFFERENCE = "_stderr", "_difference"


def add_figures(folder: Path, results: Path) -> None:
    """Put into the card of a pruned checkpoint what ``unipruning eval`` has measured of exactly these weights.

    Raises:
        CheckpointError: the results cannot be read or have nothing of these weights, or the card has no place.
        OutputError: the card cannot be written.
    """
    try:
        models = member(read_object(results), "models", list)
        by_fingerprint = {member(model, "fingerprint", str): model for model in models}
    except OSError as error:
        raise CheckpointError(
            f"results {str(results)!r} cannot be read: {error.strerror}; pass the results.json that 'unipruning eval' "
            "wrote"
        ) from error
    except ValueError as error:
        raise _other(results, error) from error
    if (model := by_fingerprint.get(Checkpoint.open(folder).fingerprint())) is None:
        raise CheckpointError(
            f"{str(results)!r} has no figures of the weights in {str(folder)!r}; measure them with 'unipruning eval'"
        )
    try:
        rows = "\n".join(_rows(model, is_first=model is models[0]))
        against = cell(Path(member(models[0], "model", str)).name)
    except ValueError as error:
        raise _other(results, error) from error
    put_figures(
        folder,
        f"| task | metric | value | difference to {against} |\n| --- | --- | --- | --- |\n{rows}\n\n"
        "Values and differences with their standard errors over items, those of differences paired; by "
        "`unipruning eval`.",
    )


def _rows(model: Mapping[str, Any], *, is_first: bool) -> Iterator[str]:
    tasks, texts = member(model, "tasks", dict), member(model, "perplexity", dict)
    for task in tasks:
        for metric in (figures := member(tasks, task, dict)):
            name, _, chosen = metric.partition(",")
            if not name.endswith((STDERR, DIFFERENCE)):
                yield _row(task, metric.removesuffix(",none"), figures, name, f",{chosen}", is_first)
    for text in texts:
        figures = member(texts, text, dict)
        shown = f"perplexity, {member(figures, 'windows', int)} windows"
        yield _row(Path(text).name, shown, figures, "perplexity", "", is_first)


def _row(task: str, shown: str, figures: Mapping[str, Any], name: str, end: str, is_first: bool) -> str:
    def text(what: str, sign: str = "") -> str:
        value, stderr = figures.get(f"{name}{what}{end}"), figures.get(f"{name}{what}{STDERR}{end}")
        error = f" ± {stderr:.4g}" if is_number(stderr) else ""
        return f"{value:{sign}.4g}{error}" if is_number(value) else "-"

    return f"| {cell(task)} | {cell(shown)} | {text('')} | {'' if is_first else text(DIFFERENCE, '+')} |"


def _other(results: Path, error: ValueError) -> CheckpointError:
    return CheckpointError(
        f"results {str(results)!r} are none of an evaluation ({error}); pass the results.json that 'unipruning eval' "
        "wrote"
    )

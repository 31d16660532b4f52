"""What was measured of a checkpoint, item by item, and how two checkpoints differ on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipruning_core.data.perplexity import exp_of

PERPLEXITY = "perplexity"
# by which a task is counted in the mean, the first that it has
MAIN = ("acc_norm,none", "acc,none")
MEAN = "mean"


@dataclass(frozen=True)
class Measure:
    """One figure of one checkpoint.

    ``items`` are its values by item, of which it is the mean, or, for a perplexity, exp of the mean; empty where the
    figure is neither.  ``hashes`` tell which items they are.
    """

    task: str
    metric: str  # as lm-eval names it: "acc,none"
    value: float
    stderr: float | None  # standard error over items
    items: tuple[float, ...] = ()
    hashes: tuple[str, ...] = ()

    @property
    def is_perplexity(self) -> bool:
        return self.metric == PERPLEXITY


@dataclass(frozen=True)
class Difference:
    """A figure less that of the first checkpoint, with the standard error of the mean over paired items."""

    value: float
    stderr: float | None


def measures_of(found: Mapping[str, Any]) -> list[Measure]:
    """Return the figures in a result of lm-eval, those of groups without items."""
    measures = []
    for task, figures in found["results"].items():
        samples = found.get("samples", {}).get(task, [])
        for metric, value in figures.items():
            name, _, chosen = metric.partition(",")
            if not isinstance(value, float | int) or isinstance(value, bool) or not chosen or name.endswith("_stderr"):
                continue
            stderr = figures.get(f"{name}_stderr,{chosen}")
            items = [item for item in samples if item.get("filter") == chosen]
            measures.append(
                Measure(
                    task,
                    metric,
                    float(value),
                    float(stderr) if isinstance(stderr, float | int) else None,
                    *_paired_items(name, items, float(value)),
                )
            )
    return measures


def _paired_items(
    name: str, items: Sequence[Mapping[str, Any]], value: float
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the values by item and the items' hashes, if the figure is their mean."""
    values = [item.get(name) for item in items]
    if not values or not all(isinstance(one, float | int) for one in values):
        return (), ()
    numbers = tuple(float(one) for one in values if one is not None)
    if not math.isclose(sum(numbers) / len(numbers), value, rel_tol=1e-9, abs_tol=1e-12):
        return (), ()
    return numbers, tuple(str(item["doc_hash"]) for item in items)


def perplexity_measure(source: str, losses: Sequence[float], text_sha256: str) -> Measure:
    r"""Return exp of the mean loss of windows, with the standard error of that mean times it (delta method)."""
    numbers = np.asarray(losses, dtype=np.float64)
    value = exp_of(float(numbers.mean()))
    stderr = value * _stderr(numbers) if len(numbers) > 1 and math.isfinite(value) else None
    hashes = tuple(f"{text_sha256}:{len(losses)}:{window}" for window in range(len(losses)))
    return Measure(source, PERPLEXITY, value, stderr, tuple(losses), hashes)


def difference(measure: Measure, first: Measure | None) -> Difference | None:
    r"""Return how a figure differs from that of the first checkpoint, item by item where both have the same items.

    .. math:: \bar d = \frac{1}{n} \sum_i (x_i - y_i), \quad
        \mathrm{se} = \sqrt{\frac{1}{n (n - 1)} \sum_i (x_i - y_i - \bar d)^2}

    For perplexities, exp of the means, x and y are multiplied by the two figures first (delta method).
    """
    if first is None or not (math.isfinite(measure.value) and math.isfinite(first.value)):
        return None
    value = measure.value - first.value
    if not measure.items or measure.hashes != first.hashes or len(measure.items) < 2:
        return Difference(value, None)
    return Difference(value, _stderr(np.asarray(_scaled(measure)) - np.asarray(_scaled(first))))


def mean_of(measures: Sequence[Measure]) -> Measure | None:
    """Return the mean over tasks of the main accuracy of each; None for fewer than two tasks."""
    chosen = _main(measures)
    if len(chosen) < 2:
        return None
    errors = [measure.stderr for measure in chosen]
    stderr = _together([error for error in errors if error is not None]) if None not in errors else None
    return Measure(MEAN, f"of {len(chosen)} tasks", sum(one.value for one in chosen) / len(chosen), stderr)


def mean_difference(measures: Sequence[Measure], first: Sequence[Measure]) -> Difference | None:
    """Return the mean over tasks of the differences of their main accuracies."""
    theirs = {(one.task, one.metric): one for one in first}
    found = [difference(one, theirs.get((one.task, one.metric))) for one in _main(measures)]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    errors = [one.stderr for one in known if one.stderr is not None]
    stderr = _together(errors) if len(errors) == len(known) else None
    return Difference(sum(one.value for one in known) / len(known), stderr)


def _main(measures: Sequence[Measure]) -> list[Measure]:
    """Return one accuracy of each task that has items; groups are means of tasks already."""
    by_task: dict[str, dict[str, Measure]] = {}
    for measure in measures:
        if measure.items and not measure.is_perplexity:
            by_task.setdefault(measure.task, {})[measure.metric] = measure
    return [
        next(found[name] for name in MAIN if name in found)
        for found in by_task.values()
        if any(name in found for name in MAIN)
    ]


def _scaled(measure: Measure) -> list[float]:
    return [measure.value * item for item in measure.items] if measure.is_perplexity else list(measure.items)


def _together(errors: Sequence[float]) -> float:
    """Return the standard error of the mean of independent figures."""
    return math.sqrt(sum(error**2 for error in errors)) / len(errors)


def _stderr(values: Any) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))

"""The local metrics by name, for the command line too; ``saliency.py`` has their mathematics."""

from __future__ import annotations

from dataclasses import dataclass

SUBSET_FRACTION = 0.2  # size of a random subset, as a fraction of min(out, in)


@dataclass(frozen=True)
class Metric:
    """One row of the table in ``saliency.py``."""

    name: str
    uses_inputs: bool = True
    relative: bool = False  # divided by row and column sums
    exponent: float = 1.0  # of n_j
    random_subsets: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("magnitude", uses_inputs=False),
        Metric("wanda"),
        Metric("ria", relative=True, exponent=0.5),
        Metric("stochria", relative=True, exponent=0.7, random_subsets=True),
    )
}

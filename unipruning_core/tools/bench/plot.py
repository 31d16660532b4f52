"""A plot of the achieved bandwidth by operation and backend."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipruning_core.errors import ConfigError
from unipruning_core.tools.bench.run import BenchLine

BAR_HEIGHT = 0.8


def check_drawer() -> Any:
    """Import the drawing library, before anything is measured.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed; pip install matplotlib, or leave out --plot"
        ) from error


def plot(lines: Sequence[BenchLine], path: Path, title: str) -> None:
    """Write a PNG: a bar for each correct result, with a mark for a copy of the same bytes."""
    figure = check_drawer().Figure(figsize=(9, 1.5 + 0.35 * max(1, len(lines))), layout="constrained")
    draw(figure.add_subplot(), lines, title)
    figure.savefig(path, format="png", dpi=120)


def draw(axes: Any, lines: Sequence[BenchLine], title: str) -> None:
    """Draw the bars, one group per operation and shape, one colour per backend."""
    correct = [line for line in lines if line.median is not None and line.copy is not None]
    groups = list(dict.fromkeys((line.operation, line.shape, line.dtype) for line in correct))
    backends = list(dict.fromkeys(line.backend for line in correct))
    height = BAR_HEIGHT / max(1, len(backends))
    for number, backend in enumerate(backends):
        of_backend = [line for line in correct if line.backend == backend]
        places = [groups.index((line.operation, line.shape, line.dtype)) + number * height for line in of_backend]
        axes.barh(places, [line.gb_per_second for line in of_backend], height, label=backend)
        copies = [line.gb_per_second * 100 / line.percent_of_copy for line in of_backend]  # type: ignore[operator]
        axes.plot(copies, places, "k|", label=f"{backend}: a copy of the same bytes")
    middle = BAR_HEIGHT / 2 - height / 2
    axes.set_yticks([place + middle for place in range(len(groups))], [" ".join(group) for group in groups])
    axes.invert_yaxis()
    axes.set_xlabel("GB/s, counting the minimum bytes that any implementation moves")
    axes.set_title(title)
    axes.legend()

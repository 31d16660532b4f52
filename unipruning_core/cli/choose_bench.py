"""From the command line's arguments to a benchmark and its backends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from unipruning_core.backend import Backend
from unipruning_core.errors import ConfigError
from unipruning_core.models.outline import outline
from unipruning_core.registry import Catalogue
from unipruning_core.tools.bench.baseline import check_compiler_cache
from unipruning_core.tools.bench.cases import PATTERN
from unipruning_core.tools.bench.names import DTYPE_NAMES, MEASURED
from unipruning_core.tools.bench.run import Bench

if TYPE_CHECKING:
    import argparse

DEFAULT_SHAPE = (4096, 4096)
DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}
FEWEST_SAMPLES, MOST_SAMPLES = 2, 1_000_000


def choose_bench(options: argparse.Namespace) -> Bench:
    """Return the requested benchmark.

    Raises:
        ConfigError: an argument is out of range.
    """
    names = options.dtype.split(",")
    if options.baseline == "compile":
        check_compiler_cache()
    if options.repeat < FEWEST_SAMPLES:
        raise ConfigError(f"percentiles need --repeat {FEWEST_SAMPLES} or more, not {options.repeat}")
    if options.repeat > MOST_SAMPLES:
        raise ConfigError(f"--repeat takes at most {MOST_SAMPLES} samples, not {options.repeat}")
    shapes = (
        outline(options.model, revision=options.revision).shapes()
        if options.model
        else dict.fromkeys(_shapes(options.shape), 1)
    )
    for _, columns in shapes:
        if columns % PATTERN[1]:
            raise ConfigError(f"a shape needs a multiple of {PATTERN[1]} columns for its N:M masks, not {columns}")
    return Bench(
        tuple(dict.fromkeys(options.operations)) or MEASURED,
        shapes,
        [DTYPES[name] for name in dict.fromkeys(names)],
        options.repeat,
        options.baseline,
    )


def _shapes(texts: list[str] | None) -> list[tuple[int, int]]:
    shapes = []
    for text in texts or ():
        match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
        if not match:
            raise ConfigError(f"--shape must be rows x columns, such as 4096x11008, not {text!r}")
        shapes.append((int(match[1]), int(match[2])))
    return shapes or [DEFAULT_SHAPE]


def choose_backends(words: str) -> tuple[list[Backend], dict[str, str]]:
    """Return the named backends in order, and the probe detail of each.

    Raises:
        BackendNotFoundError, BackendUnavailableError: one of them is missing or cannot run; it is never replaced.
    """
    catalogue = Catalogue()
    names: list[str | None] = [None if name == "auto" else name for name in words.split(",")]
    if words == "all":
        specs = sorted(catalogue.specs.values(), key=lambda spec: (-spec.priority, spec.name))
        # if none can run, choosing the best one reports why
        names = [spec.name for spec in specs if catalogue.probe(spec).available] or [None]
    backends = [catalogue.select(name) for name in dict.fromkeys(names)]
    return backends, {backend.name: catalogue.probe(catalogue.specs[backend.name]).detail for backend in backends}

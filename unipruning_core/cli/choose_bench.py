"""From the words of the command line to what is benchmarked, on which backends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from unipruning_core.backend import Backend
from unipruning_core.errors import ConfigError
from unipruning_core.models.outline import outline
from unipruning_core.registry import Catalogue
from unipruning_core.tools.bench.baseline import BASELINES
from unipruning_core.tools.bench.cases import PATTERN
from unipruning_core.tools.bench.run import Bench, known_operations

if TYPE_CHECKING:
    import argparse

DEFAULT_SHAPE = (4096, 4096)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FEWEST_SAMPLES = 2


def choose_bench(options: argparse.Namespace) -> Bench:
    """The benchmark that the words name.

    Raises:
        ConfigError: a word that means nothing here, with those that do.
    """
    known = known_operations()
    for operation in options.operations:
        if operation not in known:
            raise ConfigError(f"operation {operation!r} cannot be measured; choose from {', '.join(known)}")
    names = options.dtype.split(",")
    for name in names:
        if name not in DTYPES:
            raise ConfigError(f"dtype is one of {', '.join(DTYPES)}, not {name!r}")
    if options.baseline not in (None, *BASELINES):
        raise ConfigError(f"baseline is one of {', '.join(BASELINES)}, not {options.baseline!r}")
    if options.repeat < FEWEST_SAMPLES:
        raise ConfigError(f"percentiles want --repeat {FEWEST_SAMPLES} or more, not {options.repeat}")
    shapes = outline(options.model).shapes() if options.model else dict.fromkeys(_shapes(options.shape), 1)
    for _, columns in shapes:
        if columns % PATTERN[1]:
            raise ConfigError(f"a shape wants a multiple of {PATTERN[1]} columns, not {columns}, for its N:M masks")
    return Bench(
        tuple(dict.fromkeys(options.operations)) or tuple(known),
        shapes,
        [DTYPES[name] for name in dict.fromkeys(names)],
        options.repeat,
        options.baseline,
    )


def _shapes(words: list[str] | None) -> list[tuple[int, int]]:
    shapes = []
    for word in words or ():
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word)
        if not found:
            raise ConfigError(f"a shape is rows x columns, such as 4096x11008, not {word!r}")
        shapes.append((int(found[1]), int(found[2])))
    return shapes or [DEFAULT_SHAPE]


def choose_backends(words: str) -> tuple[list[Backend], dict[str, str]]:
    """The backends that the words name, in their order, and what the probe of each says.

    Raises:
        BackendNotFoundError, BackendUnavailableError: one of them is not there or cannot run; never another instead.
    """
    catalogue = Catalogue()
    names: list[str | None] = [None if name == "auto" else name for name in words.split(",")]
    if words == "all":
        specs = sorted(catalogue.specs.values(), key=lambda spec: (-spec.priority, spec.name))
        # where none can run, the choice of the best one says why
        names = [spec.name for spec in specs if catalogue.probe(spec).available] or [None]
    backends = [catalogue.select(name) for name in dict.fromkeys(names)]
    return backends, {backend.name: catalogue.probe(catalogue.specs[backend.name]).detail for backend in backends}

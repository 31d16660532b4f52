"""Presets of a search: options under one name, which any option that is given beats."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unipruning_core.compare.methods import PRESETS as LISTS
from unipruning_core.compare.methods import parse_methods
from unipruning_core.errors import ConfigError
from unipruning_core.search.choice import spelled
from unipruning_core.spelling import did_you_mean


@dataclass(frozen=True)
class Preset:
    """Options by destination, and in a few words what they are."""

    about: str
    options: Mapping[str, Any]


PUBLISHED = {"metric": "stochria", "samples": 128, "seq_len": 4096}
# of the release, a step of V and AdamW for each document, which is cut at the length of a sample
RELEASED = {"mode": "drift", "step_size": 0.01, "quantile": 0.001, "learning_rate": 1e-4, "max_grad_norm": 1.0}
REGULARISED = {"prox_strength": 0.001, "prox_pattern": "2:4"}
PRESETS: Mapping[str, Preset] = {
    "paper-unstructured": Preset(
        "the energy as the paper writes it, and one budget for all matrices",
        {"mode": "coupled", **PUBLISHED, "coupling": 1e-5, "soft_threshold": 0.001, "sparsity": ["60%/global"]},
    ),
    "paper-2:4": Preset(
        "the published N:M search, with the regulariser at its published strength, which moves next to nothing",
        {**RELEASED, **PUBLISHED, **REGULARISED, "sparsity": ["2:4"]},
    ),
    "released": Preset(
        "what the released code does, its defects mended: one document a sample, seed 42",
        {**RELEASED, **PUBLISHED, **REGULARISED, "packing": "document", "seed": 42},
    ),
    "fast": Preset(
        "one forward pass a sample: Wanda",
        {"mode": "frozen", "metric": "wanda", "samples": 32},
    ),
    "best": Preset(
        "the lowest perplexity in docs/results.md: at present the defaults",
        {
            **{"mode": "feedback", "metric": "wanda", "batch_size": 1, "learning_rate": 1e-4, "ramp_sparsity": 0.7},
            **{"ramp_fraction": 0.5, "second_moment_rate": 0.05, "local_exponent": 1.0, "drift_weight": 0.0075},
            "samples": 128,
        },
    ),
}


def check_preset(name: str) -> None:
    """Refuse what is no preset of a search.

    Raises:
        ConfigError: it is none.
    """
    if name not in PRESETS:
        hint = "; that one is a list of methods, for compare" if name in LISTS else did_you_mean(name, PRESETS)
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, not {name!r}{hint}")


def check_list(name: str) -> None:
    """Refuse what is no list of methods, which compare calls a preset.

    Raises:
        ConfigError: it is none.
    """
    if name in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(LISTS)}, not {name!r}; that one is for prune and search")
    parse_methods([], [name])


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a preset, beside those that are given and beat it.

    Raises:
        ConfigError: another mode is given, whose settings are others.
    """
    options = dict(PRESETS[name].options)
    if (mode := given.get("mode", options["mode"])) != options["mode"]:
        raise ConfigError(f"--preset {name} is for --mode {options['mode']}, not {mode!r}; leave out one of them")
    return options


def described() -> str:
    """Return the presets and their values, for the help."""
    return "\n".join(
        textwrap.fill(
            f"{preset.about} ({', '.join(_shown(*option) for option in preset.options.items())})",
            118,
            initial_indent=f"  {name:19}",
            subsequent_indent=" " * 21,
            break_on_hyphens=False,
        )
        for name, preset in PRESETS.items()
    )


def _shown(name: str, value: Any) -> str:
    text = " ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value
    return f"{spelled(name)} {text}"

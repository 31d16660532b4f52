"""Sparsities as the user writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import LARGEST_GROUP, SemiStructured, Unstructured, parse_pattern, parse_ratio
from unipruning_core.sparsity.mix import Mix, parse_mix

Sparsity: TypeAlias = Unstructured | SemiStructured | Budget | Mix  # what users can request


def parse_sparsity(text: str) -> Sparsity:
    """Parse "60%", "60%/matrix", "37.5%/row", "70%/global", "2:4", "@budget.json" or "2:4+dense@45%".

    Raises:
        ConfigError: the text is none of these, or the budget file is missing or invalid.
    """
    if text.startswith("@"):
        return Budget.read(text[1:])
    if "@" in text:
        return parse_mix(text)
    if (parsed := parse_ratio(text) or parse_pattern(text)) is not None:
        return parsed
    raise ConfigError(
        f"sparsity {text!r} is neither a ratio below 100%, such as 60%, 37.5%/row or 70%/global,"
        f" nor N:M with N < M <= {LARGEST_GROUP}, such as 2:4, nor a budget file, such as @budget.json,"
        " nor mixed patterns, such as 2:4+dense@45%"
    )


def check_distinct(sparsities: Iterable[Sparsity]) -> None:
    """Refuse an empty list, and one with a sparsity twice, however it is written."""
    seen: set[str] = set()
    for sparsity in sparsities:
        if sparsity.slug in seen:
            raise ConfigError(f"sparsity {str(sparsity)!r} was given twice; pass each once")
        seen.add(sparsity.slug)
    if not seen:
        raise ConfigError("no sparsity was given; pass at least one, such as '50%' or '2:4'")

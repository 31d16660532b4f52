"""Sparsities as the user writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import LARGEST_GROUP, SemiStructured, Unstructured, parse_pattern, parse_ratio
from unipruning_core.sparsity.mix import Mix, parse_mix

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Target

Sparsity: TypeAlias = Unstructured | SemiStructured | Budget | Mix  # what users can request


def parse_sparsity(text: str) -> Sparsity:
    """Parse "60%", "60%/matrix", "37.5%/row", "70%/global", "50%/model", "2:4", "@budget.json" or "2:4+dense@45%".

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
        f"sparsity {text!r} is neither a ratio below 100%, such as 60%, 37.5%/row, 70%/global or 50%/model,"
        f" nor N:M with N < M <= {LARGEST_GROUP}, such as 2:4, nor a budget file, such as @budget.json,"
        " nor mixed patterns, such as 2:4+dense@45%"
    )


def check_fits(sparsity: Sparsity, targets: Sequence[Target], model_weights: int) -> None:
    """Refuse a sparsity that the targets of a model with so many weights cannot have.

    Raises:
        ConfigError: it does not divide a matrix, does not fit the targets, or asks for more than they hold.
    """
    sparsity.check(targets)
    if isinstance(sparsity, Unstructured):
        sparsity.keep_together(sum(target.size for target in targets), model_weights)


def check_distinct(sparsities: Iterable[Sparsity]) -> None:
    """Refuse an empty list, and one with a sparsity twice, however it is written."""
    seen: set[str] = set()
    for sparsity in sparsities:
        if sparsity.slug in seen:
            raise ConfigError(f"sparsity {str(sparsity)!r} was given twice; pass each once")
        seen.add(sparsity.slug)
    if not seen:
        raise ConfigError("no sparsity was given; pass at least one, such as '50%' or '2:4'")

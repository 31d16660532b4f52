"""Sparsities as the user writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, get_args

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import (
    LARGEST_GROUP,
    Scope,
    SemiStructured,
    Unstructured,
    parse_pattern,
    parse_ratio,
)
from unipruning_core.sparsity.mix import Mix, parse_mix
from unipruning_core.spelling import nearest

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
    hint = f"; did you mean {meant}?" if (meant := _meant(text)) else ""
    raise ConfigError(
        f"sparsity {text!r} is neither a ratio below 100%, such as 60%, 37.5%/row, 70%/global or 50%/model,"
        f" nor N:M with N < M <= {LARGEST_GROUP}, such as 2:4, nor a budget file, such as @budget.json,"
        f" nor mixed patterns, such as 2:4+dense@45%{hint}"
    )


def looks_like_sparsity(text: str) -> bool:
    """Return whether a word is meant as a sparsity, be it right or not: a number, a pattern, a ratio or a budget."""
    return re.fullmatch(r"@.+|\S+@\S+%|[0-9.]+(%(/\S*)?)?|[0-9]+[:/][0-9]+", text) is not None


def _meant(text: str) -> str | None:
    """Return what was likely meant by a text that is no sparsity: 60% by 0.6 and 60, 2:4 by 2/4 and 4:2."""
    if re.fullmatch(r"[0-9]{0,2}\.?[0-9]{1,9}", text) and (number := Fraction(text)) < 100:
        return str(Unstructured(number if number < 1 else number / 100))
    if numbers := re.fullmatch(r"([0-9]{1,3})[:/]([0-9]{1,3})", text):
        pattern = ":".join(map(str, sorted(map(int, numbers.groups()))))
        return pattern if parse_pattern(pattern) else None
    ratio, slash, scope = text.replace(" ", "").partition("/")
    if parse_ratio(ratio) is None:
        return None
    if not slash:
        return ratio
    close = nearest(scope, get_args(Scope)[1:])
    return close and f"{ratio}/{close}"


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

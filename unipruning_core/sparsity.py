"""Sparsity: how much is pruned, and in what shape."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    from unipruning_core.checkpoint import Target

LARGEST_GROUP = 32

Scope: TypeAlias = Literal["matrix", "row", "global"]


@dataclass(frozen=True)
class Unstructured:
    """A share of the weights of each matrix, of each output row, or of all matrices together."""

    share: Fraction  # pruned, 0 <= share < 1
    scope: Scope = "matrix"

    def __str__(self) -> str:
        return f"{self._percent}%" if self.scope == "matrix" else f"{self._percent}%/{self.scope}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return self._percent if self.scope == "matrix" else f"{self._percent}-{self.scope}"

    @property
    def _percent(self) -> str:
        percent = self.share * 100
        return format((Decimal(percent.numerator) / Decimal(percent.denominator)).normalize(), "f")

    def keep(self, numel: int) -> int:
        """How many of ``numel`` weights stay: the exact product, halves to the even neighbour."""
        return round((1 - self.share) * numel)

    def check(self, targets: Iterable[Target]) -> None:
        """Every matrix takes a share."""


@dataclass(frozen=True)
class SemiStructured:
    """N:M: of every ``m`` consecutive inputs of a row, ``n`` stay."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return f"{self.n}-{self.m}"

    def keep(self, numel: int) -> int:
        """How many of ``numel`` weights stay; ``m`` divides ``numel``."""
        return numel // self.m * self.n

    def check(self, targets: Iterable[Target]) -> None:
        """Refuse a layer whose inputs do not divide into groups."""
        for target in targets:
            if target.shape[1] % self.m:
                raise ConfigError(
                    f"sparsity {str(self)!r} needs a multiple of {self.m} inputs, but {target.name!r} has"
                    f" {target.shape[1]}; choose another group size or a share such as '50%'"
                )


Sparsity: TypeAlias = Unstructured | SemiStructured


def parse_sparsity(text: str) -> Sparsity:
    """Read "60%", "37.5%/row", "70%/global" or "2:4"."""
    if pattern := re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text):
        n, m = int(pattern[1]), int(pattern[2])
        if 1 <= n < m <= LARGEST_GROUP:
            return SemiStructured(n, m)
    elif share := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%(?:/(row|global))?", text):
        ratio = Fraction(share[1]) / 100
        if ratio < 1:
            return Unstructured(ratio, cast("Scope", share[2] or "matrix"))
    raise ConfigError(
        f"sparsity {text!r} is neither a share below 100%, such as 60%, 37.5%/row or 70%/global,"
        f" nor N:M with N < M <= {LARGEST_GROUP}, such as 2:4"
    )


def check_distinct(sparsities: Iterable[Sparsity]) -> None:
    """Refuse a list in which one sparsity occurs twice, however it was written."""
    seen: set[str] = set()
    for sparsity in sparsities:
        if sparsity.slug in seen:
            raise ConfigError(f"sparsity {str(sparsity)!r} is asked for twice; name each once")
        seen.add(sparsity.slug)
    if not seen:
        raise ConfigError("at least one sparsity is wanted, but none came; name one, such as '50%' or '2:4'")

"""Sparsity: how much is pruned, and in what shape."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Target

LARGEST_GROUP = 32

# "auto" stands for the scope that suits the search, which replaces it
Scope: TypeAlias = Literal["auto", "matrix", "row", "global", "model"]


@dataclass(frozen=True)
class Unstructured:
    """A sparsity ratio of each matrix, of each output row, of all matrices together, or of the whole model."""

    ratio: Fraction  # pruned, 0 <= ratio < 1
    scope: Scope = "auto"

    def __str__(self) -> str:
        return f"{self._percent}%" if self.scope == "auto" else f"{self._percent}%/{self.scope}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return f"{self._percent}-{self.scope}" if self.scope in ("row", "global", "model") else self._percent

    @property
    def _percent(self) -> str:
        percent = self.ratio * 100
        return format((Decimal(percent.numerator) / Decimal(percent.denominator)).normalize(), "f")

    def keep(self, numel: int) -> int:
        """Return how many of ``numel`` weights are kept: the exact product, halves rounded to even."""
        return round((1 - self.ratio) * numel)

    @property
    def spans_matrices(self) -> bool:
        """Whether one threshold holds for all matrices."""
        return self.scope in ("global", "model")

    def keep_together(self, total: int, model_weights: int) -> int:
        """Return how many weights are kept of all targets together, which have ``total``.

        A ratio of the model is taken of all its weights, and pruned from the targets.

        Raises:
            ConfigError: the targets hold no more than that.
        """
        if self.scope != "model":
            return self.keep(total)
        if (pruned := model_weights - self.keep(model_weights)) < total:
            return total - pruned
        raise ConfigError(
            f"sparsity {str(self)!r} prunes {pruned} of the model's {model_weights} weights, but its targets hold only"
            f" {total}; ask for less than {floor(1e4 * total / model_weights) / 100:g}%/model, or include more layers"
        )

    def within(self, scope: Scope) -> Unstructured:
        """Return this sparsity with ``scope`` in place of "auto"."""
        return replace(self, scope=scope) if self.scope == "auto" else self

    def check(self, targets: Iterable[Target]) -> None:
        """Accept any matrix: a ratio fits them all."""


@dataclass(frozen=True)
class SemiStructured:
    """N:M: of every ``m`` consecutive inputs of a row, ``n`` are kept."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return f"{self.n}-{self.m}"

    def keep(self, numel: int) -> int:
        """Return how many of ``numel`` weights are kept; ``m`` divides ``numel``."""
        return numel // self.m * self.n

    def check(self, targets: Iterable[Target]) -> None:
        """Refuse a layer whose number of inputs is not a multiple of ``m``."""
        for target in targets:
            if target.shape[1] % self.m:
                raise ConfigError(
                    f"sparsity {str(self)!r} needs a multiple of {self.m} inputs, but {target.name!r} has"
                    f" {target.shape[1]}; choose another group size or a ratio such as '50%'"
                )


@dataclass(frozen=True)
class Dense:
    """One matrix that is not pruned."""

    def __str__(self) -> str:
        return "dense"

    @property
    def slug(self) -> str:
        """Part of a folder's name."""
        return "dense"


@dataclass(frozen=True)
class Kept:
    """An exact number of kept weights of one matrix: the largest."""

    weights: int

    def __str__(self) -> str:
        return f"{self.weights} kept"


@dataclass(frozen=True)
class KeptRows:
    """An exact number of kept weights in each output row of one matrix: the largest of the row."""

    weights: tuple[int, ...]  # (out,)

    def __str__(self) -> str:
        fewest, most = min(self.weights), max(self.weights)
        return f"{fewest} kept a row" if fewest == most else f"{fewest} to {most} kept a row"


# how one matrix is pruned; not the global scope, which spans all matrices
MatrixSparsity: TypeAlias = "Unstructured | SemiStructured | Dense | Kept | KeptRows"


def kept_weights(cut: MatrixSparsity, shape: tuple[int, int]) -> int:
    """Return how many weights of an (out, in) matrix a cut keeps; a global ratio is applied to this matrix alone."""
    rows, columns = shape
    if isinstance(cut, Dense):
        return rows * columns
    if isinstance(cut, Kept):
        return cut.weights
    if isinstance(cut, KeptRows):
        return sum(cut.weights)
    if isinstance(cut, Unstructured) and cut.scope == "row":
        return rows * cut.keep(columns)
    return cut.keep(rows * columns)


def parse_cut(text: str) -> Unstructured | SemiStructured | Dense | None:
    """Parse the sparsity of one matrix: "dense", "60%", "60%/row" or "2:4"; None for any other text."""
    if text == "dense":
        return Dense()
    cut = parse_ratio(text)
    return parse_pattern(text) if cut is None or cut.spans_matrices else cut.within("matrix")


def parse_ratio(text: str) -> Unstructured | None:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%(?:/(matrix|row|global|model))?", text)
    if match is None or (ratio := Fraction(match[1]) / 100) >= 1:
        return None
    return Unstructured(ratio, cast("Scope", match[2] or "auto"))


def parse_pattern(text: str) -> SemiStructured | None:
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    if match is None or not 1 <= int(match[1]) < int(match[2]) <= LARGEST_GROUP:
        return None
    return SemiStructured(int(match[1]), int(match[2]))

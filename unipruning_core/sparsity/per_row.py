"""A least number of weights that every output row keeps, beside a sparsity and with the same total.

In each row the k weights with the largest scores are protected, and the others are ranked as ever, so that the total is
what the sparsity asks for.  Where every row keeps k weights anyway, the masks are those without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Dense, KeptRows, MatrixSparsity, SemiStructured, Unstructured, kept_weights
from unipruning_core.sparsity.mix import Mix
from unipruning_core.sparsity.parse import Sparsity

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Target

FLAG = "--keep-per-row"


def check_keep_per_row(keep: object, sparsities: Iterable[Sparsity]) -> None:
    """Refuse what is not a number of weights, and one without effect on all sparsities; 0 protects none.

    Raises:
        ConfigError: it is negative, or no whole number, or every sparsity fixes the number of each row itself.
    """
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 0:
        raise ConfigError(f"{FLAG} must be a whole number of at least 0, not {keep!r}")
    fixed = list(sparsities)
    if keep and all(map(_fixes_rows, fixed)):
        raise ConfigError(
            f"{FLAG} {keep} has no effect on sparsity {str(fixed[0])!r}, which keeps the same number of weights in each"
            " row; omit it"
        )


def check_rows_fit(keep: int, sparsity: Sparsity, targets: Sequence[Target], model_weights: int) -> None:
    """Refuse a sparsity that leaves too few weights for every row of the targets to keep ``keep``.

    Raises:
        ConfigError: it does.
    """
    if not keep:
        return
    for target in targets:
        if keep > target.shape[1]:
            raise ConfigError(
                f"{FLAG} {keep} is more than the {target.shape[1]} inputs of {target.name!r}; pass a smaller number"
            )
    if isinstance(sparsity, Unstructured) and sparsity.spans_matrices:
        rows, total = (sum(sizes) for sizes in zip(*((t.shape[0], t.size) for t in targets), strict=True))
        kept = sparsity.keep_together(total, model_weights)
        if keep * rows > kept:
            raise _too_many(keep, sparsity, f"{kept} weights of {rows} rows", kept // rows)
        return
    for target, cut in _cuts(sparsity, targets):
        most, kept = _most_per_row(cut, target.shape), kept_weights(cut, target.shape)
        if keep > most:
            raise _too_many(keep, sparsity, f"{kept} weights of {target.shape[0]} rows of {target.name!r}", most)


def _fixes_rows(sparsity: Sparsity) -> bool:
    return isinstance(sparsity, SemiStructured) or (isinstance(sparsity, Unstructured) and sparsity.scope == "row")


def _cuts(sparsity: Sparsity, targets: Sequence[Target]) -> Iterator[tuple[Target, MatrixSparsity]]:
    """Yield each form that a target may get."""
    if isinstance(sparsity, Budget):
        cuts = sparsity.cuts(targets)
        yield from ((target, cuts[target.name]) for target in targets)
    elif isinstance(sparsity, Mix):
        yield from ((target, cut) for target in targets for cut in sparsity.fitting(target))
    else:
        yield from ((target, sparsity) for target in targets)


def _most_per_row(cut: MatrixSparsity, shape: tuple[int, int]) -> int:
    """Return how many weights every row of an (out, in) matrix can be sure to keep."""
    if isinstance(cut, KeptRows):
        return min(cut.weights)
    return shape[1] if isinstance(cut, Dense) else kept_weights(cut, shape) // shape[0]


def _too_many(keep: int, sparsity: Sparsity, kept: str, most: int) -> ConfigError:
    remedy = f"pass {FLAG} {most} or less" if most else f"omit {FLAG}"
    return ConfigError(
        f"{FLAG} {keep} does not fit sparsity {str(sparsity)!r}, which keeps {kept}; {remedy}, or prune less"
    )

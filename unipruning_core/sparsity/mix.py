"""A mix: the form of each matrix, such as 2:4, 4:8 or dense, chosen so that the scores lose least."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.forms import Dense, MatrixSparsity, SemiStructured, Unstructured, kept_weights, parse_cut
from unipruning_core.sparsity.knapsack import Option, choose

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class Mix:
    """Some forms, of which each matrix has one, and the share that is pruned of all matrices together.

    The choice minimises the sum of score**2 over all pruned weights.  That compares matrices only where scores do:
    those of ``feedback`` have the unit of the loss, the others mean 1 a matrix.  Of two forms that prune as much the
    freer one never loses more (every 2:4 mask is a 4:8 mask), so a set is best made of forms that differ in how much
    they prune.
    """

    choices: tuple[Unstructured | SemiStructured | Dense, ...]
    ratio: Fraction  # pruned of all matrices, or as near to it as whole matrices come

    def __str__(self) -> str:
        return f"{'+'.join(map(str, self.choices))}@{Unstructured(self.ratio)}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return f"{'+'.join(choice.slug for choice in self.choices)}-at-{Unstructured(self.ratio).slug}"

    def fitting(self, target: Target) -> list[Unstructured | SemiStructured | Dense]:
        """The forms this matrix can have, in the order given: N:M only where its inputs divide into groups."""
        return [
            choice
            for choice in self.choices
            if not isinstance(choice, SemiStructured) or target.shape[1] % choice.m == 0
        ]

    def check(self, targets: Iterable[Target]) -> None:
        """Refuse a set of forms that leaves a matrix without one, or cannot come to the share."""
        fewest = most = total = 0
        for target in targets:
            kept = [kept_weights(choice, target.shape) for choice in self.fitting(target)]
            if not kept:
                raise ConfigError(
                    f"sparsity {str(self)!r} has no form for {target.name!r}, whose {target.shape[1]} inputs divide"
                    " into none of its groups; add another group size, a share or 'dense'"
                )
            total += target.size
            fewest, most = fewest + min(kept), most + max(kept)
        if not fewest <= Unstructured(self.ratio).keep(total) <= most:
            raise ConfigError(
                f"sparsity {str(self)!r} cannot be met: its forms prune from {1 - most / total:.4%} to"
                f" {1 - fewest / total:.4%} of these matrices; add a form or choose another share"
            )

    def choose(self, targets: Sequence[Target], losses: Sequence[Sequence[float]]) -> dict[str, MatrixSparsity]:
        """The form of each target, by name; ``losses`` holds for each its sum of score**2 in the order of ``fitting``.

        ``knapsack.choose`` says what is guaranteed.
        """
        total = sum(target.size for target in targets)
        items = [
            [
                Option(target.size - kept_weights(choice, target.shape), loss)
                for choice, loss in zip(self.fitting(target), lost, strict=True)
            ]
            for target, lost in zip(targets, losses, strict=True)
        ]
        chosen = choose(items, total - Unstructured(self.ratio).keep(total))
        return {target.name: self.fitting(target)[position] for target, position in zip(targets, chosen, strict=True)}


def parse_mix(text: str) -> Mix:
    """Read "2:4+4:8+dense@45%".

    Raises:
        ConfigError: the text is something else.
    """
    words, _, end = text.rpartition("@")
    share = parse_cut(end)
    choices = [found for word in words.split("+") if (found := parse_cut(word)) is not None]
    known = len(choices) == len(words.split("+")) == len(set(choices))
    if not known or not isinstance(share, Unstructured) or share.scope == "row":
        raise ConfigError(
            f"sparsity {text!r} should name different forms joined by '+', each N:M, a share or 'dense', and after '@'"
            " the share that is pruned of all matrices, such as 2:4+dense@45%"
        )
    return Mix(tuple(choices), share.ratio)

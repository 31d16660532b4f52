"""Mixed patterns: a form for each matrix, such as 2:4, 4:8 or dense, chosen so that the least score is lost."""

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
    """Forms to choose from for each matrix, and the sparsity ratio over all matrices together.

    The choice minimises the sum of score**2 over all pruned weights, which is meaningful only if scores compare between
    matrices: those of ``feedback`` are in units of the loss, the others have mean 1 in each matrix.  Of two forms with
    the same ratio the less constrained one never loses more (every 2:4 mask is a 4:8 mask), so it is best to list forms
    with different ratios.
    """

    choices: tuple[Unstructured | SemiStructured | Dense, ...]
    ratio: Fraction  # over all matrices, or as close to it as whole matrices allow

    def __str__(self) -> str:
        return f"{'+'.join(map(str, self.choices))}@{Unstructured(self.ratio)}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return f"{'+'.join(choice.slug for choice in self.choices)}-at-{Unstructured(self.ratio).slug}"

    def fitting(self, target: Target) -> list[Unstructured | SemiStructured | Dense]:
        """Return the forms this matrix can have, in the order given: N:M only if M divides its inputs."""
        return [
            choice
            for choice in self.choices
            if not isinstance(choice, SemiStructured) or target.shape[1] % choice.m == 0
        ]

    def check(self, targets: Iterable[Target]) -> None:
        """Refuse forms that leave a matrix without one, or cannot reach the ratio."""
        fewest = most = total = 0
        for target in targets:
            kept = [kept_weights(choice, target.shape) for choice in self.fitting(target)]
            if not kept:
                raise ConfigError(
                    f"sparsity {str(self)!r} has no form for {target.name!r}, whose {target.shape[1]} inputs are"
                    " not a multiple of any of its groups; add another group size, a ratio or 'dense'"
                )
            total += target.size
            fewest, most = fewest + min(kept), most + max(kept)
        if not fewest <= Unstructured(self.ratio).keep(total) <= most:
            raise ConfigError(
                f"sparsity {str(self)!r} cannot be met: its forms prune from {1 - most / total:.4%} to"
                f" {1 - fewest / total:.4%} of these matrices; add a form or choose another ratio"
            )

    def choose(self, targets: Sequence[Target], losses: Sequence[Sequence[float]]) -> dict[str, MatrixSparsity]:
        """Return the form of each target, by name; ``losses`` holds its sums of score**2 in the order of ``fitting``.

        ``knapsack.choose`` states what is guaranteed.
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
    """Parse "2:4+4:8+dense@45%".

    Raises:
        ConfigError: the text has another form.
    """
    forms, _, ratio = text.rpartition("@")
    overall = parse_cut(ratio)
    choices = [cut for form in forms.split("+") if (cut := parse_cut(form)) is not None]
    valid = len(choices) == len(forms.split("+")) == len(set(choices))
    if not valid or not isinstance(overall, Unstructured) or overall.scope == "row":
        raise ConfigError(
            f"sparsity {text!r} must be different forms joined by '+', each N:M, a ratio or 'dense', then '@' and the"
            " ratio over all matrices, such as 2:4+dense@45%"
        )
    return Mix(tuple(choices), overall.ratio)

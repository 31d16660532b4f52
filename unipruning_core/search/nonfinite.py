"""What becomes of a search whose numbers are not finite: it ends and says where, or leaves the sample out and says so.

A look at the whole state reads all of it, so there is one every ``CHECK_EVERY`` samples, before each save, and at the
end; a loss shows the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import DataError
from unipruning_core.models.loading import dtype_remedy

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.data.calibration import Origin
    from unipruning_core.search.base import Outcome, Search

CHECK_EVERY = 16  # samples
SKIPPED = "skipped"  # the name of ``Skipped.table`` in a saved state
WHOLE = 0  # the column of a sample that was left out for all matrices
NAMED = 4  # samples that the last note names
SCORES = ("drawn", "dual", "threshold")  # kinds of tensors of a state that come from the metric, not from a gradient
FLAG = "--skip-nonfinite"


def first_unfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, with one read on the host for each device."""
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, {})[name] = tensor
    found = set()
    for held in by_device.values():
        # the ends of the range, NaN if there is one: many times faster than isfinite, and without a temporary
        ends = torch.stack([end.float() for tensor in held.values() for end in (tensor.amin(), tensor.amax())])
        finite = ends.isfinite().view(-1, 2).all(1).tolist()
        found |= {name for name, ok in zip(held, finite, strict=True) if not ok}
    return next((name for name in tensors if name in found), None)


class Skipped:
    """What a search left out because it was not finite: whole samples, and single matrices of others."""

    def __init__(self, run: Search, samples: int, origins: Sequence[Origin]) -> None:
        self.run, self.origins = run, origins
        # one row a sample; column 0 stands for all matrices, the others for one each
        self.table = torch.zeros(samples, 1 + len(run.layers), dtype=torch.uint8)

    def __bool__(self) -> bool:
        return bool(self.table.any())

    @property
    def samples(self) -> int:
        """The number of samples that were left out for all matrices."""
        return int(self.table[:, WHOLE].sum())

    def add(self, sample: int, positions: Sequence[int] | None) -> None:
        """Note a sample that was left out, for some matrices, or for all with None."""
        columns = [WHOLE] if positions is None else [1 + position for position in positions]
        self.table[sample, columns] = 1

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what was left out, for run.json: the sample, from 1, its documents, and the matrix if only one."""
        for sample, column in self.table.nonzero().tolist():
            entry: dict[str, Any] = {"sample": sample + 1}
            if self.origins:
                entry["documents"] = list(self.origins[sample].documents)
            if column != WHOLE:
                entry["matrix"] = self.run.layers[column - 1].name
            yield entry

    def note(self) -> str:
        """Return the line for the user."""
        parts = []
        if whole := self.table[:, WHOLE].nonzero().flatten().tolist():
            parts.append(f"{len(whole)} of {len(self.table)} samples ({_numbered(whole, self.origins)})")
        if matrices := int(self.table[:, WHOLE + 1 :].sum()):
            partly = self.table[:, WHOLE + 1 :].any(1).nonzero().flatten().tolist()
            numbered = _numbered(partly, self.origins)
            parts.append(f"{matrices} steps of single matrices in {len(partly)} other samples ({numbered})")
        return f"left out as not finite: {' and '.join(parts)}"


def _numbered(samples: Sequence[int], origins: Sequence[Origin]) -> str:
    """Name the first few samples, with where they came from."""
    named = [f"{sample + 1}" + (f" from {origins[sample]}" if origins else "") for sample in samples[:NAMED]]
    more = [f"{len(samples) - NAMED} more"] if len(samples) > NAMED else []
    return f"number {'; '.join(named + more)}"


def of_sample(sample: int, samples: int, origins: Sequence[Origin]) -> str:
    """Name a sample, counted from 0, with where it came from."""
    return f"sample {sample + 1} of {samples}" + (f" ({origins[sample]})" if origins else "")


def sample_error(run: Search, sample: int, samples: int, origins: Sequence[Origin], good: int, kept: str) -> DataError:
    """Return the error of a sample whose loss or input statistics were not finite.

    ``good`` is the number of samples after which the state was last seen to be finite; ``kept`` says what is saved.
    """
    name = run.first_unfinite_input()
    if name is not None:
        what = f"the inputs of {name!r} were NaN or infinite, or too large to be squared, in"
    else:
        what = "the loss was NaN or infinite in"
        if (held := run.first_unfinite()) is not None:
            kept = f"and then so was what the search holds of {held[1]!r}; {kept}"
    doubt = ""
    if run.settings.follows_loss and good < sample:
        doubt = f", if not a gradient in a sample from {good + 1} on"
    what = f"{what} {of_sample(sample, samples, origins)}{doubt}"
    return DataError(f"{what}; {kept}; {remedy(run)}")


def state_error(
    run: Search, kind: str, name: str, samples: int, window: tuple[int, int], origins: Sequence[Origin], kept: str
) -> DataError:
    """Return the error of a state that stopped being finite in one of the samples of ``window``, counted from 0.

    ``kind`` and ``name`` are the first tensor of the state that is not, and its layer.
    """
    if kind in SCORES:
        return gamma_error(name, kept)
    first, last = window
    if first == last:
        where = of_sample(first, samples, origins)
    else:
        where = f"one of the samples {first + 1} to {last + 1} of {samples}"
    what = "a gradient" if run.settings.follows_loss else "the input statistics"
    return DataError(
        f"what the search holds of {name!r} is NaN or infinite, because {what} was in {where}; {kept}; {remedy(run)}"
    )


def remedy(run: Search) -> str:
    """Return what to do about a sample that is not finite."""
    remedies = [dtype_remedy(run.layers[0].weight.dtype)]
    remedies += ["lower --learning-rate"] if run.settings.moves_weights else []
    remedies += [f"leave such samples out with {FLAG}"]
    return ", or ".join(filter(None, remedies))


def checked(outcomes: Iterable[Outcome], kept: str) -> Iterator[Outcome]:
    """Pass on results of which V and tau are finite.

    Raises:
        DataError: those of a matrix are not.
    """
    for outcome in outcomes:
        if first_unfinite({"V": outcome.dual, "tau": outcome.threshold}):
            raise gamma_error(outcome.target.name, kept)
        yield outcome


def gamma_error(name: str, kept: str) -> DataError:
    """Return the error of scores that are not finite although losses and inputs are."""
    return DataError(
        f"Γ of {name!r} has values that are NaN or infinite, since the layer's weights or inputs are too small or too "
        f"large for this metric; {kept}; use another --metric, such as wanda or magnitude"
    )

"""The base of every search mode: mirror descent on one dual variable per weight towards the local saliency.

Each mode's settings are in ``modes/``, its arithmetic in the file of the same name here.  A mode whose settings have
``moves_weights`` changes the model it is given, which is then a scratch copy.  Source: UniPruning, arXiv 2510.03291.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, TypeAlias

import torch

from unipruning_core.distributed.world import ALONE
from unipruning_core.models.activations import InputSums
from unipruning_core.models.host_memory import give_back_freed_memory
from unipruning_core.models.one_sequence import one_sequence
from unipruning_core.search.metrics import METRICS
from unipruning_core.search.nonfinite import first_unfinite
from unipruning_core.search.reach import reach_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World
    from unipruning_core.models.home import Home
    from unipruning_core.models.layer import Layer
    from unipruning_core.search.parts import Part
    from unipruning_core.search.reach import Reach
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Target

    Vectors: TypeAlias = tuple[Tensor, Tensor, Tensor]  # r, (out,), p and q, (in,), float32, of one layer


@dataclass(frozen=True)
class Outcome:
    """The result for one target: V and tau, which give Gamma = sign(V) max(|V| - tau, 0)."""

    target: Target
    dual: Tensor  # (out, in), float32
    threshold: Tensor  # 0-D, float32
    steps: int  # mirror steps taken
    input_norm: Tensor | None = None  # (in,), float32, n over all samples, if the search knows it


class Search(ABC):
    """A search in one mode.  ``tensors`` is its whole state, from which it can be resumed."""

    batch_size = 1  # samples that form one step

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[Layer],
        settings: Settings,
        backend: Backend,
        samples: int,
        world: World | None = None,
        home: Home | None = None,  # where what is held of each layer lies; None for its device
    ) -> None:
        self.model, self.layers, self.settings, self.backend, self.samples = model, layers, settings, backend, samples
        self.world, self.home = world or ALONE, home
        self.metric = METRICS[settings.metric]
        self.recomputes = False  # whether the backward pass computes activations again
        self.skips_nonfinite = False  # whether what is not finite is left out; a sample is then read before it is used
        self.unusable: list[int] = []  # positions of the layers whose gradient of this sample was left out
        self.notes: list[str] = []  # for the user, from the samples so far
        self.touched = [False] * len(layers)  # which had a token in the latest step
        self.spread = 1  # how many samples all ranks together process at a time
        model.eval()  # dropout would draw its own random numbers
        model.requires_grad_(False)
        for layer in layers:
            layer.parameter.requires_grad_(settings.follows_loss)
        self.prepare()

    def prepare(self) -> None:
        """Allocate what the mode holds besides the model, once at the start."""
        self.steps = torch.zeros(len(self.layers), dtype=torch.int64)  # samples that each layer has learnt from
        # layers of one device together
        self.positions = by_device(self.layers)
        self.inputs = [
            InputSums([self.layers[position] for position in positions], self.backend) for positions in self.positions
        ]

    def own_model(self) -> None:
        """Take the model over: nobody else needs its weights, which may then be held in another way."""
        give_back_freed_memory()  # by loading

    @abstractmethod
    def step(self, sample: int, input_ids: Tensor) -> float | None:
        """Process calibration sample number ``sample``, (1, tokens) int64; return its loss if one is computed.

        The loss is NaN or infinite if it, or the sum of squares of a layer's inputs, is.  With ``skips_nonfinite``
        nothing of such a sample is kept, and a mode without a loss returns NaN.
        """

    def process(self, number: int, batch: Sequence[Tensor]) -> list[float]:
        """Take step ``number`` with its samples, each (1, tokens) int64; return the loss of each, if any is computed.

        Every rank is given the whole batch, and works on its share of it.
        """
        (input_ids,) = batch
        loss = self.step(number, input_ids)
        return [] if loss is None else [loss]

    @torch.no_grad()
    def rehearse(self, input_ids: Tensor) -> None:
        """Run the passes that ``step`` makes for a sample, (1, tokens) int64, and keep nothing of it."""
        with one_sequence():
            self.model(input_ids=input_ids, use_cache=False)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that ``step`` changes in place, by a name that is stable between processes."""

    def thresholds_of(self, samples: int) -> list[float]:
        """Return the threshold that each step of so many samples used, if the mode has one."""
        return []

    def parts(self) -> dict[str, Part]:
        """Return where each of these tensors lies that is divided among the ranks."""
        return {}

    def first_unfinite(self) -> tuple[str, str] | None:
        """Return which kind of tensor of the state is the first that holds NaN or infinity, and of which layer."""
        if (name := first_unfinite(self.tensors())) is None:
            return None
        kind, _, device = name.partition(".")
        if kind == "sums":  # one row a layer of the device
            row = self.tensors()[name].amax(1).isfinite().tolist().index(False)
            return kind, self.layers[self.positions[int(device)][row]].name
        layer, _, kind = name.rpartition(".")
        return kind, layer

    def first_unfinite_input(self) -> str | None:
        """Return the first layer whose inputs of the latest sample had a sum of squares that is NaN or infinite."""
        bad = {
            position
            for positions, inputs in zip(self.positions, self.inputs, strict=True)
            for position, peak in zip(positions, inputs.sums.amax(1).isfinite().tolist(), strict=True)
            if not peak
        }
        return self.layers[min(bad)].name if bad else None

    def first_unfinite_sample(self) -> int | None:
        """Return the sample that made the state not finite, if the mode knows it."""
        return None

    def _peak(self) -> Tensor:
        """Return the largest sum of squares of the latest sample's inputs, 0-D float32; not finite if one is not."""
        peaks = [inputs.rows.amax() for inputs in self.inputs]
        return peaks[0] if len(peaks) == 1 else torch.stack([peak.to(peaks[0].device) for peak in peaks]).amax()

    def reach(self) -> Reach:
        """Return which layers the samples reached, after the last one: all, for a mode that does not ask.

        Raises:
            DataError: most of the weights were not reached.
        """
        every = [True] * len(self.layers)
        return reach_of(self.layers, every, every)

    @abstractmethod
    def outcomes(self) -> Iterator[Outcome]:
        """Yield the result for each layer that ``reach`` keeps, in its order; each may be dropped before the next."""

    def _share(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's samples of a batch: those of several ranks are the same where it has fewer than ranks."""
        self.spread = gcd(len(batch), self.world.size)
        return list(batch[self.world.rank % self.spread :: self.spread])

    def _spread(self, tensor: Tensor) -> list[Tensor]:
        """Return a tensor of each of the samples that the ranks have just processed, in the order of the samples."""
        return self.world.in_order(tensor)[: self.spread]

    def _of_all(self, losses: list[float]) -> list[float]:
        """Return the loss of each sample of a batch, in order, from those of this rank's."""
        by_rank = self.world.each(losses)[: self.spread]
        return [of_rank[index] for index in range(len(losses)) for of_rank in by_rank]

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Sum up the inputs of every layer over the forward passes made inside, each over one sequence."""
        with ExitStack() as stack:
            stack.enter_context(one_sequence())
            for inputs in self.inputs:
                stack.enter_context(inputs.watched())
            yield

    def _note_tokens(self, *, first: bool = True) -> None:
        """Note which layers the latest sample had a token for, on any rank, and unless it is the first of its step add
        those of the samples before."""
        here = [False] * len(self.layers)
        for positions, inputs in zip(self.positions, self.inputs, strict=True):
            for position, tokens in zip(positions, inputs.tokens, strict=True):
                here[position] = tokens > 0
        # without experts every rank has them for the same layers
        everywhere = self.world.each(here) if any(layer.siblings for layer in self.layers) else [here]
        before = [] if first else [self.touched]
        self.touched = [any(of_layer) for of_layer in zip(*before, *everywhere, strict=True)]

    def _heard(self) -> list[bool]:
        """Return which layers' saliency is known from this step: those with a token, or all if none is needed."""
        return [touched or not self.metric.uses_inputs for touched in self.touched]

    def _count_steps(self) -> None:
        """Count the latest sample for every layer that learnt from it."""
        heard = self._heard()
        for position in self.unusable:
            heard[position] = False
        self.steps += torch.tensor(heard)

    def _tokens_seen(self, counts: Sequence[Tensor]) -> list[bool]:
        """Return which layers saw a token, by the counts of each device's layers, (layers, 1) int64."""
        seen = [False] * len(self.layers)
        for positions, of_device in zip(self.positions, counts, strict=True):
            for position, count in zip(positions, of_device.flatten().tolist(), strict=True):
                seen[position] = count > 0
        return seen


def zero_dual(layer: Layer, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return V = 0, (out, in) float32, and tau = 0, 0-D float32, on the layer's device, or another."""
    device = device or layer.device
    return torch.zeros(layer.target.shape, device=device), torch.zeros((), device=device)


def held_dual(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the same, V for the part of the layer that is held here."""
    return torch.zeros(layer.weight.shape, device=layer.device), torch.zeros((), device=layer.device)


def by_device(layers: Sequence[Layer]) -> list[list[int]]:
    """Return the positions of the layers on each device, devices in the order of their first layer."""
    positions: dict[torch.device, list[int]] = {}
    for position, layer in enumerate(layers):
        positions.setdefault(layer.device, []).append(position)
    return list(positions.values())

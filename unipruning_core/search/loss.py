"""The base of the searches that use the language-model loss: one forward and one backward pass per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.divided import add_up_gradients
from unipruning_core.models.held import gathered
from unipruning_core.models.one_sequence import one_sequence
from unipruning_core.models.passes import name_of
from unipruning_core.models.recompute import recomputed
from unipruning_core.search.base import Search
from unipruning_core.search.language_loss import LanguageLoss
from unipruning_core.search.reach import reach_of

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.layer import Layer
    from unipruning_core.search.reach import Reach


class NotFiniteError(Exception):
    """A sample's loss or input statistics are not finite, and such samples are left out."""


class LossSearch(Search):
    """Search with one forward and one backward pass per sample."""

    def prepare(self) -> None:
        super().prepare()
        if self.world.size > 1:
            add_up_gradients(self.model)
        self.language_loss = LanguageLoss(self.model, [layer.name_in_model for layer in self.layers])
        self.graded = torch.zeros(len(self.layers), dtype=torch.int64)  # samples that gave each layer a gradient
        self.latest = [False] * len(self.layers)  # which layers had one in the latest sample
        # over all samples so far: the tokens of each layer, and the sum of squares of its inputs
        self.counts = [torch.zeros_like(inputs.counts) for inputs in self.inputs]
        self.sums = [torch.zeros_like(inputs.sums) for inputs in self.inputs] if self._sums_inputs() else []
        self.blocks = decoder_blocks(self.model)[1]
        self.trace = torch.zeros(self.samples)  # the mode's threshold at each step, on the host as the loss is

    def _loss(self, input_ids: Tensor, *, first: bool = True) -> Tensor:
        """Run the forward pass, summing up the layers' inputs, and return the loss; not finite if a sum is not.

        ``first`` is whether the sample is the first of its step.

        Raises:
            NotFiniteError: it is not, and such samples are left out.
            ConfigError: no gradient can be taken of it.
        """
        self.language_loss.compare(input_ids, self.notes.append)
        with self._watching(), recomputed(self.blocks if self.recomputes else ()):
            loss = self.language_loss(input_ids)
        self._note_tokens(first=first)
        if not loss.requires_grad:
            raise ConfigError(
                f"the loss of model {name_of(self.model)!r} has no gradient for any target layer, because its forward "
                "pass runs outside autograd; use --mode frozen"
            )
        # zero, or else NaN: the one value that the host reads then tells of the inputs too
        loss = loss + (self._peak() * 0).to(loss.device, loss.dtype)
        if self.skips_nonfinite and not bool(loss.detach().isfinite()):
            raise NotFiniteError
        return loss

    def rehearse(self, input_ids: Tensor) -> None:
        def forget(position: int) -> None:
            self.layers[position].parameter.grad = None

        with torch.compiler.set_stance("force_eager"):  # the few tokens of a comparison are not worth compiling for
            self.language_loss.compare(input_ids, self.notes.append)
        with one_sequence(), recomputed(self.blocks if self.recomputes else ()):
            loss = self.language_loss(input_ids)
        with on_gradient(self.layers, forget):
            loss.backward()

    def _usable(self, position: int) -> bool:
        """Return whether a layer's gradient may be used; it is read on the host only if such are left out."""
        gradient = self.layers[position].parameter.grad
        if not self.skips_nonfinite or gradient is None:
            return True
        # squares are what the modes sum up, so they must be finite too
        if bool(torch.linalg.vector_norm(gradient, dtype=torch.float32).isfinite()):
            return True
        self.unusable.append(position)
        self.layers[position].parameter.grad = None
        return False

    def _contributed(self, loss: Tensor) -> Tensor:
        """Return what this rank takes the gradient of: the loss, or zero where another one has the same sample.

        All ranks' gradients are added up.  A sum with zeros is exact, unlike the mean of several times the same.
        """
        return loss if self.world.rank < self.spread else loss * 0

    def _backward(self, loss: Tensor, use: Callable[[int], None] | None) -> None:
        """Run the backward pass, and call ``use``, if given, as soon as a layer's gradient is complete."""
        # a loss in chunks does not lead through the model's output, where FSDP would gather what is around the blocks
        with on_gradient(self.layers, use or (lambda _: None)) as reached, gathered(self.language_loss.model):
            loss.backward()
        self._note_gradients(reached)

    def _note_gradients(self, reached: Sequence[bool]) -> None:
        """Keep which layers got a gradient from a sample; most of those that saw tokens must have.

        Raises:
            ConfigError: most of their weights got none.
        """
        # FSDP gives experts that no token reached on any rank a gradient of zero
        self.latest = [
            had and (touched or not layer.siblings)
            for had, touched, layer in zip(reached, self.touched, self.layers, strict=True)
        ]
        if all(reached):
            return
        missing = [
            self.layers[position]
            for positions, inputs in zip(self.positions, self.inputs, strict=True)
            for position, tokens in zip(positions, inputs.tokens, strict=True)
            if tokens and not reached[position]
        ]
        if 2 * sum(layer.target.size for layer in missing) > sum(layer.target.size for layer in self.layers):
            raise ConfigError(
                f"{len(missing)} of {len(self.layers)} target layers saw tokens but got no gradient (first: "
                f"{missing[0].name!r}), because the model computes with operators made for inference; turn those off "
                "in its code, or use --mode frozen"
            )
        if missing and not self.graded.any():
            self.notes.append(
                f"{len(missing)} target layers saw tokens but got no gradient, and stay dense unless another sample "
                f"gives them one (first: {missing[0].name!r}); --mode frozen prunes them"
            )

    def _count_steps(self) -> None:
        super()._count_steps()
        usable = [had and position not in self.unusable for position, had in enumerate(self.latest)]
        self.graded += torch.tensor(usable)

    def _sums_inputs(self) -> bool:
        """Return whether the mode uses the inputs of all samples: those of an expert without tokens, at least."""
        return any(layer.siblings for layer in self.layers)

    def _count_inputs(self) -> None:
        """Add the inputs of the latest sample, or of those of all ranks, to those of all, on the device."""
        for counts, inputs in zip(self.counts, self.inputs, strict=True):
            for one in self._spread(inputs.counts):
                counts += one
        for sums, inputs in zip(self.sums, self.inputs, strict=bool(self.sums)):
            for one in self._spread(inputs.sums):
                sums += one

    def reach(self) -> Reach:
        saw = self._tokens_seen(self.counts)
        learnt = [
            graded > 0 and (seen or not self.metric.uses_inputs)
            for graded, seen in zip(self.graded.tolist(), saw, strict=True)
        ]
        return reach_of(self.layers, learnt, saw, skipping=self.skips_nonfinite)

    def tensors(self) -> dict[str, Tensor]:
        state = {"steps": self.steps, "graded": self.graded, "trace": self.trace}
        state |= {f"sums.{device}": sums for device, sums in enumerate(self.sums)}
        return state | {f"counts.{device}": counts for device, counts in enumerate(self.counts)}

    def _note_threshold(self, step: int, threshold: float) -> None:
        # one that is not finite comes of a state that is not, which ends the search with its own sentence
        self.trace.numpy()[step] = threshold if isfinite(threshold) else 0.0

    def thresholds_of(self, samples: int) -> list[float]:
        return self.trace[: -(-samples // self.batch_size)].tolist()

    def _named(self, kind: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name one tensor per layer by the layer and its ``kind``."""
        return {f"{layer.name}.{kind}": tensor for layer, tensor in zip(self.layers, tensors, strict=True)}


@contextmanager
def on_gradient(layers: Sequence[Layer], use: Callable[[int], None]) -> Iterator[list[bool]]:
    """Call ``use(position)`` once a layer's gradient is complete, during the backward pass; yield which were reached.

    By then autograd has made the gradient of the layer's input, so ``use`` may change the weight.
    """

    def hook_for(position: int) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            reached[position] = True
            use(position)

        return hook

    reached = [False] * len(layers)
    handles = [
        layer.parameter.register_post_accumulate_grad_hook(hook_for(position)) for position, layer in enumerate(layers)
    ]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()

r"""The search whose saliency contains the loss, measured at the masked weights.

At sample t the mask M_t of the current score, at a sparsity that rises from 0 to ``ramp_sparsity``, is applied to the
drifting weights W0 + eta U_t under one budget for all matrices, and one gradient g_t is taken there.  A weight that was
masked early can come back, because its gradient is still measured.

.. math:: v \leftarrow v + \gamma (g_t^2 - v), \qquad
          U \leftarrow U - \lambda_t \frac{g_t}{\hat v^{1/2}}, \qquad \hat v = \frac{v}{1 - (1 - \gamma)^{t + 1}}

.. math:: \text{score} = |W^0|\, v^{1/2}\; \bigl(|W^0 + \eta U|\, (r p + q)\bigr)^{a}\;
          e^{b\, U \operatorname{sign}(W^0)}

**How much.**  Removing weight w changes the loss by about w g to first order; the mean square :math:`(W^0)^2 v` is the
diagonal Fisher term (Theis et al., arXiv 1801.05787).  Its root has the unit of the loss, so scores are comparable
between matrices and the budget may be global.  v is a second moment as Adam keeps it, and ``second_moment_rate`` is
gamma; no gradient is clipped, since the step is invariant to its scale.

**Which way.**  Let a mask entry be a number from 0 to 1: the derivative of the loss with respect to it is W0 g.  One
step of exponentiated gradient, mirror descent under the entropy, multiplies the entry by exp(-b sign(W0) g / v^(1/2)).
U accumulates these steps: a weight that the loss drives away from zero is kept, one that it drives to zero is pruned.
``drift_weight`` is b; a large one overshoots, since weights that pull the same way are then pruned together.  The
logarithm of the product of all factors is a sum, U, the dual of that mirror map; times the learning rate eta, the same
U is how far the weights drift.  lambda_t rises from 0 to 1 over the first tenth of the samples.

**Where.**  r, p and q are the vectors of the local metric (``saliency.py``), from sums over W0 and the input norms over
all samples so far.  |W0 + eta U| (r p + q) is a product of what is there, so it needs no dual of its own.

**Several samples a step.**  With ``batch_size`` b, g_t is the mean of b gradients, v follows as far as b steps would
take it, 1 - (1 - gamma)^b, and U moves by b^(1/2), as far as b independent steps would on average.

**What is held.**  U in float16 and v in bfloat16, 4 bytes per weight besides the model's own.  U is in units of the
learning rate, so its increments are about one and float16 holds them; those of v are a twentieth of it.

**The threshold** of M_t is a quantile of scores that the pass of sample t - 1 drew, every so-manieth of each matrix; v
has since grown by a known factor while it is young.  So M_t meets the sparsity of the ramp to a few tenths of a percent
without a pass of its own.  The final masks are exact.

Along the ramp each weight is judged near the sparsity at which it would be pruned, as on the regularisation path of
split linearised Bregman iteration (Huang et al., NeurIPS 2016).  The measured effect is a trade-off: low sparsities
seem to gain, while the end of the ramp loses the samples that they take (docs/results.md).  With a ``pattern`` N:M the
ramp masks only what the pattern would: of each M the M - N weakest, the weakest of all groups first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.models.divided import mean_of, whole_of
from unipruning_core.models.substituted_weights import given_weights, substituted_weights
from unipruning_core.search.adamw import schedule
from unipruning_core.search.base import Outcome
from unipruning_core.search.drawn import Drawn
from unipruning_core.search.few_tokens import FewTokens
from unipruning_core.search.held_state import HeldState
from unipruning_core.search.loss import LossSearch, NotFiniteError
from unipruning_core.search.reach import with_siblings
from unipruning_core.search.recording import Recorded
from unipruning_core.search.saliency import FixedSaliency

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.base import Vectors
    from unipruning_core.search.modes.feedback import FeedbackSettings
    from unipruning_core.search.parts import Part


class FeedbackSearch(LossSearch):
    """Search that takes gradients at the masked weights along the ramp, and scores the weights by them.

    Scores and masked weights are made one matrix at a time and never held; of the masks, one bit a weight is, from a
    layer's forward pass to its backward pass.
    """

    settings: FeedbackSettings

    def prepare(self) -> None:
        super().prepare()
        self.batch_size = self.settings.batch_size
        self.samples = -(-self.samples // self.batch_size)  # steps, from here on
        self.trace = self.trace[: self.samples].clone()
        # of b samples: as far as b steps of one would move it, and as far as b independent gradients would
        rate = self.settings.second_moment_rate
        self.decay = 1 - (1 - rate) ** self.batch_size if self.batch_size > 1 else rate
        self.state = HeldState(self.layers, self.home, drifts=bool(self.settings.learning_rate))
        saliency = partial(FixedSaliency.of, self.layers, self.metric, self.backend, self.settings.seed, self.world)
        self.saliencies = [saliency(positions) for positions in self.positions]
        self.factors: dict[int, Vectors] = {}
        self.kept: dict[int, Tensor] = {}  # the masks of this sample, by position
        self.few = FewTokens(self.layers, self.positions, self.counts, self.world)
        self.unscored: set[int] = set()  # experts that no token of the samples so far reached
        self.drawn = Drawn(self.layers, self.world)
        # what differs between samples lies on the device, so that a recorded sample can be replayed
        device = self.layers[0].device
        self.rank = torch.zeros(1, dtype=torch.int64, device=device)  # of the threshold among the drawn scores
        self.growth = torch.zeros((), device=device)  # of the scores since they were drawn; at 0 no weight is masked
        self.rates = {layer.device: torch.zeros((), device=layer.device) for layer in self.layers}
        self.threshold: dict[torch.device, Tensor] = dict(self.rates)
        # what is on the device of a sample's length is replaced by that of the next other one
        self.recorder = Recorded(
            self._sample, self.backend, self.notes, lambda: [one.on_device() for one in self.inputs]
        )
        # a recording is of one device, and of one sample; what becomes of experts depends on the host's count of tokens
        alone = len(self.positions) == 1 and not self.world.sharded and self.batch_size == 1
        self.recorder.possible = alone and not any(layer.siblings for layer in self.layers)

    def own_model(self) -> None:
        self.state.narrow()
        super().own_model()

    def _sums_inputs(self) -> bool:
        return True

    def step(self, sample: int, input_ids: Tensor) -> float:
        return self.process(sample, [input_ids])[0]

    def process(self, number: int, batch: Sequence[Tensor]) -> list[float]:
        self._set_numbers(number)
        if number == 1:  # step 0 had no gradients to score the weights by
            self._draw()
        mine = self._share(batch)
        if self.skips_nonfinite:
            *losses, threshold = self._kept_apart(*mine)
        else:
            made = self.recorder(*mine) if len(mine) == 1 else self._sample(*mine)
            *losses, threshold = made.tolist()
        losses = self._of_all(losses)
        self._note_threshold(number, threshold)
        if not any(map(isnan, losses)):
            self._count_steps()
        return losses

    def _kept_apart(self, input_ids: Tensor) -> list[float]:
        """Process one sample, and return its loss, NaN where everything is left as it was, and the threshold."""
        drawn = [scores.clone() for scores in self.drawn.scores]
        try:
            read: list[float] = self._sample(input_ids).tolist()
        except NotFiniteError:
            self.kept.clear()
            for scores, earlier in zip(self.drawn.scores, drawn, strict=True):
                scores.copy_(earlier)
            return [nan, float(self.threshold[self.rank.device])]
        return read

    def _set_numbers(self, sample: int) -> None:
        """Copy this sample's numbers to the device: the threshold's rank, the growth of v, and the rate of U's step."""
        self.few.update()
        graded = self.graded.tolist()
        self.unscored = {
            position for position, layer in enumerate(self.layers) if layer.siblings and not graded[position]
        }
        unscored = sum(self.drawn.counts[position] for position in self.unscored)
        scores = sum(self.drawn.counts)
        rank = round(self.sparsity_at(sample) * (scores - unscored))
        rank = min(rank + unscored, scores - 1) if rank else 0  # a sparsity near one rounds to all
        # v reaches a fraction 1 - (1 - gamma)^t of a constant g^2 in t steps
        drawn, now, then = (1 - (1 - self.decay) ** steps for steps in (max(1, sample - 1), sample, sample + 1))
        self.rank.fill_(rank)
        self.growth.fill_((now / drawn) ** 0.5 if rank else 0.0)
        for rate in self.rates.values():
            rate.fill_(schedule(sample, self.samples, decay=False) * (then * self.batch_size) ** 0.5)

    def sparsity_at(self, sample: int) -> float:
        """Return the model's sparsity ratio at this sample: a linear rise from 0, then constant from the ramp's end."""
        rising = max(1.0, self.settings.ramp_fraction * self.samples)
        return self.settings.most_sparse * min(1.0, sample / rising)

    def _sample(self, *batch: Tensor) -> Tensor:
        """Process this rank's samples of one step, and return their losses and the threshold, to be read at once.

        Nothing here depends on the step's number, and no value is read.
        """
        for layer in self.layers:
            layer.parameter.grad = None  # left by a sample that could not be recorded, or failed
        self._update_factors()
        threshold = self.drawn.sorted().to(self.rank.device).index_select(0, self.rank)
        # what a pattern keeps has the largest score that there is, and grows no further
        threshold = (threshold * self.growth).clamp_max(torch.finfo(torch.float32).max).view(())
        self.threshold = {device: threshold.to(device) for device in self.rates}
        losses: list[Tensor] = []
        weights = given_weights if self.world.sharded else substituted_weights
        with weights(self.layers, self._masked, self._masked_again):
            for input_ids in batch:
                loss = self._loss(input_ids, first=not losses)
                # gradients add up until that of the last sample is there
                mean = self._contributed(loss) / (len(batch) * self.spread)
                self._backward(mean, self._follow if len(losses) + 1 == len(batch) else None)
                self._count_inputs()
                losses.append(loss.detach())
        self.kept.clear()
        self.drawn.keep(self.touched)
        return torch.stack([*losses, threshold.to(losses[0].device)])

    @torch.no_grad()
    def _follow(self, position: int) -> None:
        """Use a layer's gradient at the masked weights, as the module stores it."""
        layer = self.layers[position]
        if not self._usable(position):
            return
        assert layer.gradient is not None
        if layer.held.numel() and (self.touched[position] or not layer.siblings):
            self.state.step(position, layer.gradient, self.rates[layer.device], self.decay, self.backend)
        layer.parameter.grad = None

    def _update_factors(self) -> None:
        """Make r, p and q of all layers from the inputs seen so far."""
        for device, (positions, saliency) in enumerate(zip(self.positions, self.saliencies, strict=True)):
            made = saliency.factors(self.few.norms(device, self.sums[device], self.counts[device]))
            for row, position in enumerate(positions):
                rows, columns = self.layers[position].span
                self.factors[position] = made.r[row, rows], made.p[row, columns], made.q[row, columns]

    def _draw(self) -> None:
        """Draw scores of every matrix for the threshold."""
        self._update_factors()
        for position in range(len(self.layers)):
            self._masked(position)
        self.kept.clear()
        self.drawn.keep([True] * len(self.layers))

    @torch.no_grad()
    def _masked(self, position: int) -> Tensor:
        """Return (W0 + eta U) M as the module stores it, and draw scores for the next sample's threshold."""
        # masked, an expert without a gradient so far would never get one
        if position in self.unscored or not self.layers[position].held.numel():
            return self.state.copied(position)
        pattern = self.settings.ramp_pattern
        masked, self.kept[position] = self.backend.mask_weight(
            *self._state(position),
            self.threshold[self.layers[position].device],
            self.drawn.into(position),
            **self._numbers,
            first=self.drawn.firsts[position],
            stride=self.drawn.stride,
            pattern=(pattern.n, pattern.m) if pattern else None,
        )
        return self.state.turned(masked, position)

    @torch.no_grad()
    def _masked_again(self, position: int) -> Tensor:
        if position not in self.kept:
            return self.state.copied(position)
        weight, drift, kept = self.state.weight(position), self.state.drifted(position), self.kept[position]
        masked = self.backend.remask_weight(weight, drift, kept, learning_rate=self.settings.learning_rate)
        return self.state.turned(masked, position)

    def _state(self, position: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Return W0, v, U, r, p and q of a layer, matrices as (out, in)."""
        second = self.few.second(position, self.state.moment(position))
        drift = self.state.drifted(position)
        return (self.state.weight(position), self.state.turned(second, position), drift, *self.factors[position])

    @property
    def _numbers(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "learning_rate": settings.learning_rate,
            "exponent": settings.local_exponent,
            "pull": settings.drift_weight,
        }

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self.state.tensors() | self.drawn.tensors()

    def parts(self) -> dict[str, Part]:
        return self.state.parts() | self.drawn.parts()

    @torch.no_grad()
    def outcomes(self) -> Iterator[Outcome]:
        self.recorder.forget()  # all scores of a matrix need memory, and the activations of a sample no more
        self.few.update()
        reach = self.reach()
        for device, positions in enumerate(self.positions):
            self.sums[device], self.counts[device] = with_siblings(
                reach, positions, self.sums[device], self.counts[device]
            )
        for position, siblings in reach.siblings.items():
            means = [mean_of(self.state.moment(sibling), self.layers[sibling], self.world) for sibling in siblings]
            self.state.second[position].fill_(torch.stack(means).mean())
        self._update_factors()
        for position in reach.kept:
            layer = self.layers[position]
            score = self.backend.feedback_scores(*self._state(position), **self._numbers)
            whole = whole_of(score, layer, self.world)
            yield Outcome(layer.target, whole, score.new_zeros(()), int(self.steps[position]))

"""What one rank holds, sends and copies where a search lies over ranks, or in the host's memory: counted from shapes.

Where a model is divided, FSDP gathers one decoder block at a time inside the unit around the blocks, which stays
gathered.  While a block is gathered, its bytes exist twice: as they arrived, and as the parameters that run.  Backward,
the next block is fetched ahead, and the gradients of two blocks exist: those that autograd makes, and those that are
being added up over the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

from unipruning_core.search.language_loss import fits_whole
from unipruning_core.search.memory import held_parts
from unipruning_core.tools.plan.trace import BACKWARD, FORWARD, HEAD, LOGITS, TURN

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline
    from unipruning_core.search.settings import Settings
    from unipruning_core.tools.plan.trace import Trace
    from unipruning_core.tools.plan.units import Units

ONE = "of one matrix"  # what a mode holds of one matrix at a time ends so
MASKS = "masks"  # of the state, what stays on the device
VECTORS = {True: (8, 3), False: (3, 0)}  # in float32, of a target's inputs and outputs, by having a loss
LOADING, START, RESULT = "loading", "the first block", "the result"
NAMES = {
    FORWARD: "the forward pass",
    LOGITS: "the loss",
    TURN: "the start of the backward pass",
    HEAD: "the backward pass of the output layer",
    BACKWARD: "the backward pass",
}


@dataclass(frozen=True)
class Layout:
    """How a search lies over processes and memories."""

    ranks: int = 1
    nodes: int = 1
    offload: str = "none"  # where the weights and the state of the targets lie: none for the device, cpu or disk
    recomputes: bool = False  # whether the backward pass computes activations again

    @property
    def divided(self) -> bool:
        """Whether blocks are gathered, from ranks or from the host, rather than lie where they run."""
        return self.ranks > 1 or self.offload != "none"


@dataclass(frozen=True)
class Rank:
    """The memory and the traffic of one rank."""

    phases: dict[str, dict[str, int]]  # bytes on the device by part, in each phase
    host: int  # bytes of the host's memory, or of its disk, that an offload takes
    sent: int  # bytes that a rank sends to others while it processes a sample
    copied: int  # bytes between host and device while it processes a sample

    @property
    def phase(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> dict[str, int]:
        """The bytes at the peak by part."""
        return self.phases[self.phase]

    @property
    def peak(self) -> int:
        """The most bytes on the device at once."""
        return sum(self.parts.values())


class Ranks:
    """A search of a model in a mode, of which any layout can be counted."""

    def __init__(
        self,
        outline: Outline,
        units: Units,
        trace: Trace,
        settings: Settings,
        seq_len: int,
        *,
        on_host: bool = False,  # whether ranks compute on the host, where gloo has a copy of its own of what it sends
    ) -> None:
        self.on_host = on_host
        self.units, self.trace, self.settings = units, trace, settings
        self.width, self.parameters = outline.dtype.itemsize, outline.parameters
        self.sizes = [target.size for target in outline.targets]
        self.loss = settings.follows_loss
        outputs, inputs = (max(target.shape[side] for target in outline.targets) for side in (0, 1))
        of_inputs, of_outputs = VECTORS[self.loss]
        self.vectors = 4 * len(self.sizes) * (of_inputs * inputs + of_outputs * outputs)
        self.sums = 4 * len(self.sizes) * inputs  # those that ranks exchange after a sample
        # otherwise what is around the blocks is not needed again after the loss
        self.again = fits_whole(seq_len, getattr(outline.config.get_text_config(), "vocab_size", 0))

    def rank(self, layout: Layout) -> Rank:
        """Count what one rank of a layout holds, sends and copies."""
        phases = self._divided(layout) if layout.divided else self._alone(layout)
        phases = {phase: {part: size for part, size in of.items() if size} for phase, of in phases.items()}
        return Rank(phases, self._host(layout), self._sent(layout), self._copied(layout))

    def traced(self, layout: Layout) -> Trace:
        """Return the cost of a sample's passes."""
        return self.trace.recomputing() if layout.recomputes else self.trace

    def together(self, layout: Layout) -> int:
        """Return how many samples the ranks process at a time; with fewer than ranks, several do the same."""
        batch: Any = getattr(self.settings, "batch_size", layout.ranks)
        return gcd(batch, layout.ranks)

    def _alone(self, layout: Layout) -> dict[str, dict[str, int]]:
        held = held_parts(self.parameters, self.sizes, self.settings, self.width) | self._waiting(layout)
        return {NAMES[phase]: {**held, **self._activations(layout, phase)} for phase in self.trace.phases}

    def _divided(self, layout: Layout) -> dict[str, dict[str, int]]:
        held, one = self._held(layout), 4 * max(self.sizes)
        phases: dict[str, dict[str, int]] = {}
        for phase in (LOADING, START, *self.trace.phases):
            gathered = self._gathered(layout, phase)
            phases[NAMES.get(phase, phase)] = {**held, **gathered, **self._activations(layout, phase)}
        # whole matrices: the parts of all ranks and their sum, or weights as they are read and the dual
        phases[RESULT] = {**held, "scores " + ONE: 2 * one if self.loss else one + 2 * self.width * max(self.sizes)}
        return phases

    def _gathered(self, layout: Layout, phase: str) -> dict[str, int]:
        """Return the bytes of parameters and gradients that are there for a while."""
        units, width, several = self.units, self.width, layout.ranks > 1
        root, block, gradients = (width * n for n in (units.root, units.largest, units.largest_targets))
        # a block comes from the masked weights of each rank's part of it, or of one matrix after the other
        made = gradients // layout.ranks if several else width * max(self.sizes)
        made = made if self.loss or layout.offload != "none" else 0
        arrived = block if several else 0  # as it was sent, beside the parameters
        copied = arrived if self.on_host else 0
        of_root = root if phase != BACKWARD or self.again else 0
        of_root += root if phase == LOADING or (several and phase in (START, TURN)) else 0
        arriving = made + copied
        of_blocks = {START: block + arriving, FORWARD: arrived + block + arriving, LOGITS: arrived}
        of_blocks |= {HEAD: arrived + arriving, BACKWARD: arrived + block + max(0, arriving - gradients)}
        of_gradients = {HEAD: width * units.root_targets, BACKWARD: 2 * gradients + width * units.root_targets}
        return {
            "around the blocks, gathered": of_root,
            "blocks, gathered": of_blocks.get(phase, 0),
            "gradients": of_gradients.get(phase, 0),
        }

    def _held(self, layout: Layout) -> dict[str, int]:
        """Return what a rank holds on its device from the first sample to the last."""
        ranks, width, kept = layout.ranks, self.width, self._state()
        weights, fetched = self.units.held, 0
        if layout.offload != "none":
            kept = {part: size for part, size in kept.items() if part == MASKS}
            weights -= sum(self.sizes)
            fetched = (width + 4 if self.loss else width) * max(self.sizes)
        return {
            "weights": -(-width * weights // ranks),
            **{part: -(-size // ranks) for part, size in kept.items()},
            "weights and state " + ONE: -(-fetched // ranks),
            "sums over inputs and outputs": self.vectors,
            **self._waiting(layout),
        }

    def _waiting(self, layout: Layout) -> dict[str, int]:
        """Return the gradients that add up where a rank processes several samples of a step."""
        several = getattr(self.settings, "batch_size", 1) > self.together(layout)
        return {"gradients of a step": -(-self.width * sum(self.sizes) // layout.ranks)} if several else {}

    def _state(self) -> dict[str, int]:
        """Return what the mode holds of all matrices, by part."""
        held = self.settings.held_bytes(self.sizes, self.width)
        return {part: size for part, size in held.items() if not part.endswith(ONE)}

    def _activations(self, layout: Layout, phase: str) -> dict[str, int]:
        trace = self.traced(layout)
        size, blocks = trace.phases.get(phase, 0), trace.blockwise
        if phase not in (LOGITS, TURN, HEAD):
            return {"activations": size}
        kept = min(size, blocks.number * (blocks.output if layout.recomputes else blocks.kept))
        return {"activations": kept, "logits": size - kept}

    def _host(self, layout: Layout) -> int:
        if layout.offload == "none":
            return 0
        state = sum(size for part, size in self._state().items() if part != MASKS)
        return -(-(self.width * sum(self.sizes) + state) // layout.ranks)

    def _sent(self, layout: Layout) -> int:
        """Count a rank's part of what is gathered, to every other, and of gradients all but its own part.

        Everything is gathered forward, and once more backward.
        """
        others = layout.ranks - 1
        moved = (2 * self.units.held + sum(self.sizes)) if self.loss else self.units.held
        return self.width * moved * others // layout.ranks + self.sums * others

    def _copied(self, layout: Layout) -> int:
        """Count W, v and U for the masked weights, W and U once more, and for the step v and U there and back."""
        if layout.offload == "none":
            return 0
        state = self._state()
        times = {"second moment": 3, "drift": 4}
        moved = sum(times.get(part, 0) * size for part, size in state.items())
        moved += (2 if self.loss else 1) * self.width * sum(self.sizes)
        return -(-moved // layout.ranks)

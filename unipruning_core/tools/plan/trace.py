"""The cost of a model's forward and backward, traced on tensors that have shapes but no values."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unipruning_core.errors import ConfigError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.decoder import bare_decoder, decoder_blocks, text_model
from unipruning_core.search.language_loss import LanguageLoss, logits_held
from unipruning_core.tools.plan.mixtures import flops_of_experts, gradients_of_experts, traceable_experts

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline


# through the blocks; to the loss and on to its gradient by the logits; when that is there; to the last hidden states;
# and back through the blocks
FORWARD, LOGITS, TURN, HEAD, BACKWARD = PHASES = ("forward", "logits", "turn", "head", "backward")


@dataclass(frozen=True)
class Blockwise:
    """The decoder blocks of a sample's forward pass."""

    number: int
    kept: int  # bytes that each keeps for its backward pass
    output: int  # bytes of its hidden states
    flops: int  # of all but the first, about what is done again where activations are


@dataclass(frozen=True)
class Trace:
    """The cost of one calibration sample."""

    flops: int  # of matrix products and attention; a multiply-add counts as two
    activations: int  # peak bytes besides parameters and their gradients
    phases: Mapping[str, int]  # the peak in each of ``PHASES`` that a sample has
    blockwise: Blockwise

    def recomputing(self) -> Trace:
        """Return the cost where the backward pass computes the activations inside a block again."""
        blocks = self.blockwise
        spared = blocks.number * max(0, blocks.kept - blocks.output)
        phases = {phase: max(0, peak - spared) for phase, peak in self.phases.items()}
        for phase in {FORWARD, BACKWARD} & phases.keys():  # one block has all of its own
            phases[phase] += blocks.kept
        return replace(self, flops=self.flops + blocks.flops, activations=max(phases.values()), phases=phases)


class UntraceableError(ConfigError):
    """A model's forward needs the values of its tensors, or an operator without a rule for their shapes."""


def trace_sample(outline: Outline, seq_len: int, *, backward: bool) -> Trace:
    """Trace one sample of ``seq_len`` tokens, with or without backward; weight gradients are dropped at once.

    Fused attention is that of the host; an accelerator's own kernels may hold a little more or less.

    Raises:
        UntraceableError: the model's forward cannot be traced.
    """
    with torch.device("meta"):  # where some models ask for values while they are built
        model = outline.build()
    model.eval().requires_grad_(False)
    # what fake tensors raise when a forward reads values depends on the model
    traced = library_errors_as(
        UntraceableError,
        f"the forward of {outline.name!r} cannot be traced without weights",
        "its operations and activations are those of a formula",
    )
    with traced, _silent_tracing(), traceable_experts(), FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model)
        for name, parameter in model.named_parameters() if backward else ():
            if name in outline.searched:
                parameter.requires_grad_(True)
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        loss = LanguageLoss(model)
        loss.agrees = True  # nothing can be compared without values
        ids = torch.zeros(1, seq_len, dtype=torch.int64)
        flops = FlopCounterMode(display=False, custom_mapping=_host_attention() | flops_of_experts())
        memory = LiveMemory(list(model.parameters()))
        _, blocks = decoder_blocks(model)
        ends = _watch(memory, text_model(model), list(blocks), flops)
        with nullcontext() if backward else torch.no_grad(), flops, memory:
            if backward:
                loss(ids).backward()
            else:
                bare_decoder(model)(input_ids=ids, use_cache=False)
    return Trace(flops.get_total_flops(), memory.peak, memory.peaks, _blockwise(ends))


def _blockwise(ends: Sequence[_End]) -> Blockwise:
    if not ends:  # a model that runs the parts of its blocks by itself
        return Blockwise(0, 0, 0, 0)
    first, last = ends[0], ends[-1]
    kept = (last.live - first.live) // (len(ends) - 1) if len(ends) > 1 else last.live
    return Blockwise(len(ends), max(0, kept), last.output, last.flops - first.flops)


@dataclass(frozen=True)
class _End:
    """The end of a block's forward pass."""

    live: int  # bytes
    output: int  # bytes of the hidden states
    flops: int  # so far


def _watch(memory: LiveMemory, model: nn.Module, blocks: Sequence[nn.Module], flops: FlopCounterMode) -> list[_End]:
    """Have the memory told which phase a sample is in, and return what will be known of the blocks."""
    ends: list[_End] = []

    def at_gradient(made: Any, act: Callable[[], None]) -> None:
        if isinstance(made, Tensor) and made.requires_grad:
            made.register_hook(lambda _: act())

    def turn() -> None:
        memory.enter(TURN)
        memory.enter(HEAD)

    def after_block(block: nn.Module, _: Any, output: Any) -> None:
        hidden = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        ends.append(_End(memory.live, hidden.nbytes, flops.get_total_flops()))
        if block is blocks[-1]:
            memory.enter(LOGITS)
            at_gradient(hidden, lambda: memory.enter(BACKWARD))

    for block in blocks:
        block.register_forward_hook(after_block)
    model.register_forward_hook(lambda _, __, output: at_gradient(getattr(output, "logits", None), turn))
    return ends


def by_formula(outline: Outline, seq_len: int, *, backward: bool) -> Trace:
    """Return the cost of a sample from shapes alone, without what attention adds.

    A weight takes two operations a token, and four more in the backward pass.  Kept for that are the inputs and outputs
    of every target, and four float32 copies of the logits; a forward pass alone holds those of the widest target.
    """
    sides = [sum(target.shape) for target in outline.targets]
    values = seq_len * (sum(sides) if backward else max(sides))
    vocabulary = getattr(outline.config.get_text_config(), "vocab_size", 0)
    logits = 4 * 4 * logits_held(seq_len, vocabulary) if backward else 0
    kept, forward = outline.dtype.itemsize * values, 2 * outline.parameters * seq_len
    phases = {FORWARD: kept} | ({LOGITS: kept + logits, HEAD: kept + logits // 2, BACKWARD: kept} if backward else {})
    config = outline.config.get_text_config()
    number = getattr(config, "num_hidden_layers", None) or 1
    hidden = (
        outline.dtype.itemsize * seq_len * (getattr(config, "hidden_size", None) or min(map(min, outline.shapes())))
    )
    blockwise = Blockwise(number, kept // number if backward else 0, hidden, forward)
    return Trace((3 if backward else 1) * forward, kept + logits, phases, blockwise)


def _make_fake(model: nn.Module) -> None:
    """Move a model from no device to the host, under a mode in which nothing has values; shared tensors stay shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        parts: tuple[dict[str, Any], ...] = module._parameters, module._buffers
        for held in parts:
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                        made[id(tensor)] = nn.Parameter(fake, False) if isinstance(tensor, nn.Parameter) else fake
                    held[name] = made[id(tensor)]


@contextmanager
def _silent_tracing() -> Iterator[None]:
    """Keep the tracer from logging the traceback of an operator that it cannot run."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class LiveMemory(TorchDispatchMode):
    """A count of the bytes of live storages that were made inside it."""

    def __init__(self, known: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peaks = {FORWARD: 0}  # by phase, in their order
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._known |= {gradient.untyped_storage()._cdata for gradient in gradients_of_experts(func, result)}
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.live += storage.nbytes()
                self._note()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return max(self.peaks.values())

    def enter(self, phase: str) -> None:
        """Count from here on for a phase, which may have been entered before."""
        self.peaks[phase] = self.peaks.pop(phase, 0)
        self._note()

    def _note(self) -> None:
        phase = next(reversed(self.peaks))
        self.peaks[phase] = max(self.peaks[phase], self.live)

    def _freed(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes


def _host_attention() -> dict[Any, Any]:
    """Return what torch's counter lacks: the fused attention of the host."""
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return sdpa_backward_flop_count(gradient, query, key, value)

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None

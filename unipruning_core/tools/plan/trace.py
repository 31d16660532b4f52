"""The cost of a model's forward and backward, traced on tensors that have shapes but no values."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unipruning_core.errors import ConfigError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.decoder import bare_decoder
from unipruning_core.search.language_loss import LanguageLoss, logits_held
from unipruning_core.tools.plan.mixtures import flops_of_experts, gradients_of_experts, traceable_experts

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline


@dataclass(frozen=True)
class Trace:
    """The cost of one calibration sample."""

    flops: int  # of matrix products and attention; a multiply-add counts as two
    activations: int  # peak bytes besides parameters and their gradients


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
        with nullcontext() if backward else torch.no_grad(), flops, memory:
            if backward:
                loss(ids).backward()
            else:
                bare_decoder(model)(input_ids=ids, use_cache=False)
    return Trace(flops.get_total_flops(), memory.peak)


def by_formula(outline: Outline, seq_len: int, *, backward: bool) -> Trace:
    """Return the cost of a sample from shapes alone, without what attention adds.

    A weight takes two operations a token, and four more in the backward pass.  Kept for that are the inputs and outputs
    of every target, and four float32 copies of the logits; a forward pass alone holds those of the widest target.
    """
    sides = [sum(target.shape) for target in outline.targets]
    values = seq_len * (sum(sides) if backward else max(sides))
    vocabulary = getattr(outline.config.get_text_config(), "vocab_size", 0)
    logits = 4 * 4 * logits_held(seq_len, vocabulary) if backward else 0
    return Trace((6 if backward else 2) * outline.parameters * seq_len, outline.dtype.itemsize * values + logits)


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
        self.live = self.peak = 0
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
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

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

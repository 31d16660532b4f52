"""Baselines for a backend: plain torch, the same compiled, and the eager formulation of the released code."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.backend import OPERATIONS
from unipruning_core.search.adamw import BETAS, EPSILON
from unipruning_core.search.metrics import METRICS, SUBSET_FRACTION
from unipruning_core.storage.private import check_private
from unipruning_core.tools.bench.cases import ADAMW, OPERATION_KINDS, PATTERN, QUANTILE, STEP_SIZE, Inputs, ready

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

QUANTILE_SAMPLE = 100_000  # elements from which the released formulation estimates its threshold


def baseline(name: str, operation: str, inputs: Inputs, plain: Backend) -> Callable[[], object] | None:
    """Return a baseline of ``operation``, ready to run; None if the released code has no counterpart.

    ``plain`` is the definition on the device, in plain torch.
    """
    if name == "eager":
        return ready(operation, inputs, plain)
    if name == "compile":
        return ready(operation, inputs, _compiled(plain))
    return _released(operation, inputs, plain.device_type)


def check_compiler_cache() -> None:
    """Refuse the cache of ``torch.compile`` if another user has made it: by default it has a known name in ``/tmp``.

    Raises:
        ConfigError: it is another user's, or everybody can write to it.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not folder:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = f"uid_{os.getuid()}"
        folder = os.path.join(tempfile.gettempdir(), f"torchinductor_{user}")
    remedy = "set TORCHINDUCTOR_CACHE_DIR to a folder of your own"
    check_private(Path(folder), "the cache of torch.compile", remedy, strict=True)


def _compiled(plain: Backend) -> Backend:
    operations = {name: staticmethod(torch.compile(getattr(plain, name), dynamic=False)) for name in OPERATIONS}
    compiled: Backend = type("Compiled", (type(plain),), operations)()
    return compiled


def _released(operation: str, inputs: Inputs, device: str) -> Callable[[], object] | None:
    """Return the released formulation: matrix intermediates, state in the weight's dtype, sampled quantile."""
    dual = inputs.dual.to(device, inputs.weight.dtype)
    if operation == "nm_mask":
        return lambda: _released_nm_mask(dual, *PATTERN)
    if operation == "topk_mask":
        return lambda: _released_topk_mask(dual, inputs.cols // 2)
    kind = OPERATION_KINDS[operation]
    if (metric := kind.metric) is None:
        return None
    weight = inputs.weight.to(device, copy=True)
    factor = inputs.norm.pow(METRICS[metric].exponent).to(device, dual.dtype)
    gamma, fraction = torch.zeros_like(dual), SUBSET_FRACTION if METRICS[metric].random_subsets else None
    drift = _released_drift(weight) if kind.drifts else None

    def step() -> None:
        _released_step(weight, factor, dual, gamma, fraction)
        if drift is not None:
            drift()

    return step


def _released_drift(weight: Tensor) -> Callable[[], None]:
    """Clip the gradient and let torch's own AdamW step, with both moments in the weight's dtype."""
    parameter = torch.nn.Parameter(weight)
    parameter.grad = weight.flip(0)
    optimizer = torch.optim.AdamW(
        [parameter], lr=ADAMW["learning_rate"], betas=BETAS, eps=EPSILON, weight_decay=0.0, foreach=False
    )

    def drift() -> None:
        torch.nn.utils.clip_grad_norm_([parameter], 1.0, foreach=False)
        optimizer.step()

    return drift


def _released_step(
    weight: Tensor,  # (out, in), any float
    factor: Tensor,  # (in,), the weight's dtype
    dual: Tensor,  # (out, in), the weight's dtype, updated in place
    gamma: Tensor,  # (out, in), the weight's dtype, updated in place
    fraction: float | None,  # of the smaller side, to sum over; None for all
) -> None:
    rows, cols = weight.shape
    magnitude = weight.abs()
    row_subset = column_subset = magnitude
    if fraction is not None:
        count = int(fraction * min(rows, cols))
        row_subset = magnitude[torch.randperm(rows, device=weight.device)[:count]]
        column_subset = magnitude[:, torch.randperm(cols, device=weight.device)[:count]]
    saliency = (magnitude / row_subset.sum(dim=0) + magnitude / column_subset.sum(dim=1, keepdim=True)) * factor
    saliency /= saliency.mean()
    dual += STEP_SIZE * (saliency - gamma)
    picked = torch.randperm(dual.numel(), device=dual.device)[:QUANTILE_SAMPLE]
    quantile = torch.quantile(dual.abs().flatten()[picked].float(), QUANTILE)
    gamma.copy_(dual.sign() * (dual.abs() - quantile).clamp(min=0))


def _released_nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    groups = score.abs().view(-1, m)
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.topk(n, dim=1).indices, True).view(score.shape)


def _released_topk_mask(score: Tensor, keep: int) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.abs().topk(keep, dim=1).indices, True)

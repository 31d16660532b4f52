"""Mixtures of experts under a tracer: all experts in one product whose shapes do not depend on the routing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@contextmanager
def traceable_experts() -> Iterator[None]:
    """Let transformers multiply by the experts with its own operator, which has a rule for shapes in every dtype."""
    try:
        from transformers.integrations import moe
    except ImportError:  # before transformers 5, which has no such operator
        moe = None
    if not hasattr(moe, "_can_use_grouped_mm"):
        yield
        return
    with patch.object(moe, "_can_use_grouped_mm", lambda *_, **__: False):
        yield


def flops_of_experts() -> dict[Any, Callable[..., int]]:
    """Return the operations of those products, for torch's counter: of the tokens routed to each expert alone."""
    operators: Any = getattr(torch.ops, "transformers", None)
    if not hasattr(operators, "grouped_mm_fallback"):
        return {}

    def forward(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        rows, inputs = x
        return 2 * int(rows) * int(inputs) * int(weight[-1])

    def backward(x: Any, weight: Any, *rest: Any, **__: Any) -> int:
        return 2 * forward(x, weight, *rest)

    return {operators.grouped_mm_fallback: forward, operators.grouped_mm_fallback_backward: backward}


def gradients_of_experts(func: Any, result: Any) -> list[Tensor]:
    """Return the gradients of all experts that a traced operator made; a search makes those of one at a time."""
    if getattr(func, "_name", "").startswith("transformers::grouped_mm_fallback_backward"):
        return [result[1]]
    return []

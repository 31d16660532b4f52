"""Results of cheap operators, which a backward pass makes again, bit for bit, from what the operators themselves saved.

A gated MLP saves its gate, the activation of the gate, and the product of that with the other half, which is the input
of the next matrix: the second and third follow from the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import gelu, silu

if TYPE_CHECKING:
    from torch import Tensor

# by what autograd calls the operator
OPERATORS: dict[str, Callable[[Any], Tensor]] = {
    "MulBackward0": lambda node: node._saved_self * node._saved_other,
    "SiluBackward0": lambda node: silu(node._saved_self),
    "GeluBackward0": lambda node: gelu(node._saved_self, approximate=node._saved_approximate),
}
VIEWS = ("ViewBackward0", "UnsafeViewBackward0")


class Again:
    """A result, contiguous, that is made again from the operator behind it.

    It is made once, though what follows from it asks for it too; autograd drops it with the graph, piece by piece.
    """

    def __init__(self, node: Any, shape: torch.Size) -> None:
        self.node, self.shape = node, shape
        self._made: Tensor | None = None

    def remade(self) -> Tensor:
        """Return the tensor that was saved."""
        if self._made is None:
            with torch.no_grad():
                self._made = OPERATORS[self.node.name()](self.node).view(self.shape)
        return self._made


def made_again(saved: Tensor) -> Again | None:
    """Return what stands for a tensor that autograd saves, or None if it has to be kept itself."""
    node: Any = saved.grad_fn
    if node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    if node is None or node.name() not in OPERATORS or not saved.is_contiguous():
        return None
    # a factor is saved for the gradient of the other
    if node.name() == "MulBackward0" and any(of_factor is None for of_factor, _ in node.next_functions):
        return None
    return Again(node, saved.shape)

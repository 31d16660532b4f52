"""Less memory for more time: the activations inside a block, computed again when the backward pass needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint

from unipruning_core.models.replaced_forward import replaced_forward

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Keep only the inputs of the ``blocks`` that run inside; the backward pass runs each forward a second time.

    The hooks of the modules inside a block then run again too, those that are still there.  transformers' own gradient
    checkpointing works in training mode alone, which would turn dropout on; without it no random state is needed.
    """
    with ExitStack() as replaced:
        for block in blocks:
            forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            replaced.enter_context(replaced_forward(block, forward))
        yield

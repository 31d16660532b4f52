"""CUDA graphs: a call's launches recorded once and replayed."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """Record the launches of ``work`` on the current device; activations get memory of their own, freed with the graph.

    Raises:
        RuntimeError: something in ``work`` cannot be recorded, such as a copy to the host.
    """
    gc.collect()  # cycles may hold activations, which torch, when it frees memory for the graph, no longer looks for
    graph = torch.cuda.CUDAGraph()
    first: RuntimeError | None = None
    try:
        # torch.cuda.graph leaves its own stream in place where the end of the recording fails
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            try:
                work()
            except RuntimeError as error:
                first = error
                raise
    except RuntimeError as error:
        # the end of a recording that failed says only that it did
        raise first or error from None
    replay: Callable[[], None] = graph.replay
    return replay

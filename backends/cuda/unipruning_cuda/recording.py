"""CUDA graphs: a call's launches recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """Record the launches of ``work`` on the current device; activations get memory of their own, freed with the graph.

    Raises:
        RuntimeError: something in ``work`` cannot be recorded, such as a copy to the host.
    """
    graph = torch.cuda.CUDAGraph()
    # frees cached memory first, so that the activations of the samples before do not stay beside those of the graph
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay

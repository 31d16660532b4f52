"""Graphs of torch_npu: a call's launches recorded once and replayed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """Record the launches of ``work`` on the current device; activations get memory of their own, freed with the graph.

    Raises:
        RuntimeError: something in ``work`` cannot be recorded, such as a copy to the host.
    """
    npu = torch.get_device_module("npu")
    graph = npu.NPUGraph()
    npu.synchronize()
    # so that the activations of the samples before do not stay beside those of the graph
    npu.empty_cache()
    # what torch.npu.graph does, which logs an error on its way and leaves its stream current if the end fails too
    with _at_once(npu), npu.stream(npu.Stream()):
        graph.capture_begin()
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    replay: Callable[[], None] = graph.replay
    return replay


@contextmanager
def _at_once(npu: Any) -> Iterator[None]:
    """Launch where the launch is asked for, not from torch_npu's queue: after an error, that drops everything silently.

    Raises:
        RuntimeError: this torch_npu cannot.
    """
    if os.environ.get("TASK_QUEUE_ENABLE") == "0" or os.environ.get("ASCEND_LAUNCH_BLOCKING") == "1":
        yield
    elif not hasattr(npu, "set_task_queue_enable"):
        raise RuntimeError("torch_npu before 2.13 can record only if TASK_QUEUE_ENABLE=0 is set in the environment")
    else:
        mode = npu.get_task_queue_enable()
        npu.set_task_queue_enable(0)
        try:
            yield
        finally:
            npu.set_task_queue_enable(mode)

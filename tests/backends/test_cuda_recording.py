"""The recording of CUDA graphs where there is no device: what torch does is pretended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from unipruning_cuda.recording import recorded

REFUSED = "CUDA error: operation not permitted when stream is capturing"
INVALID = "CUDA error: operation failed due to a previous error during capture"


class Graph:
    def replay(self) -> None:
        raise AssertionError("nothing is replayed here")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The current stream, last, where torch works as version 2.11 does."""
    current = ["of the caller"]

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        before = current[-1]
        current.append(name)
        try:
            yield
        finally:
            current.append(before)

    class Capture:
        def __init__(self, graph: Graph) -> None:
            self.graph = graph

        def __enter__(self) -> None:
            current.append("of the capture")

        def __exit__(self, kind: type | None, *_: object) -> None:
            if kind is not None and issubclass(kind, RuntimeError):
                raise RuntimeError(INVALID)
            current.append("of the caller")

    pretended = {
        "CUDAGraph": Graph,
        "graph": Capture,
        "stream": stream,
        "current_stream": lambda: current[-1],
    }
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return current


def test_work_is_recorded_on_another_stream(streams: list[str]) -> None:
    seen = SimpleNamespace(stream="")

    def work() -> None:
        seen.stream = streams[-1]

    assert callable(recorded(work))
    assert seen.stream == "of the capture"
    assert streams[-1] == "of the caller"


def test_a_recording_that_fails_says_why_and_leaves_the_stream_as_it_was(streams: list[str]) -> None:
    def work() -> None:
        raise RuntimeError(REFUSED)

    with pytest.raises(RuntimeError, match=f"^{REFUSED}$"):
        recorded(work)
    assert streams[-1] == "of the caller"


def test_an_error_that_is_no_refusal_stays_what_it_is(streams: list[str]) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(work)
    assert streams[-1] == "of the caller"

"""The CUDA backend on a real GPU: what neither the interpreter nor the compiler can show."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from unipruning_core.backend import OPERATIONS, Backend
from unipruning_core.registry import Catalogue
from unipruning_core.testing import oracle
from unipruning_core.tools.bench.cases import SAMPLED_ROWS, Inputs, calls_of, ready
from unipruning_core.tools.bench.report import HEADER, table_row
from unipruning_core.tools.bench.run import Bench, known_operations, run
from unipruning_kernels import reference

pytestmark = pytest.mark.gpu

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
MODEL_SHAPE = (4096, 11008)


@pytest.fixture
def backend() -> Backend:
    return Catalogue().select("cuda")


@contextmanager
def no_waiting() -> Iterator[None]:
    """The driver itself reports what makes the host wait for the device, by whatever way it is reached."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    try:
        set_sync_debug_mode("error")
        yield
    finally:
        set_sync_debug_mode(before)


def set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this mode is a prototype, and may have set it by then
        torch.cuda.set_sync_debug_mode(mode)


def test_the_whole_conformance_suite_passes_on_the_device() -> None:
    words = [sys.executable, "-m", "unipruning_core.cli", "conform", "--backend", "cuda", "--", "-q"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_gives_what_the_definition_gives_on_the_host(
    backend: Backend, operation: str, dtype: torch.dtype
) -> None:
    [(_, (arguments, options))] = calls_of(operation, Inputs(1024, 4096, dtype))
    oracle.verify(backend, operation, arguments, options, SAMPLED_ROWS.get(operation))


# v, then the local metric, then the power of two below the normal range, beside factors that bring the score back
@pytest.mark.parametrize(
    ("weight", "second", "drift", "p"),
    [(1e15, 1e-39, 0.0, 1.0), (1e-5, 1e38, 0.0, 1e-34), (1e15, 1.0, -1400.0, 1.0)],
    ids=["v", "local", "pull"],
)
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_scores_of_what_is_subnormal_on_the_way_are_right(
    backend: Backend, weight: float, second: float, drift: float, p: float, exponent: float
) -> None:
    arguments = [
        torch.full((4, 64), weight),
        torch.full((4, 64), second).bfloat16(),
        torch.full((4, 64), drift).half(),
        torch.ones(4),
        torch.full((64,), p),
        torch.zeros(64),
    ]
    numbers = {"learning_rate": 0.0, "exponent": exponent, "pull": 0.0625}
    score = backend.feedback_scores(*(argument.cuda() for argument in arguments), **numbers)
    wanted = reference.feedback_scores(*arguments, **numbers)
    assert (wanted > 1e-30).all()
    # an exponent of 63, rounded twice, is good to 1e-5
    assert torch.allclose(score.cpu(), wanted, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_never_makes_the_host_wait(backend: Backend, operation: str) -> None:
    work = ready(operation, Inputs(512, 1024, torch.bfloat16), backend)
    # compiled before it is watched
    work()
    with no_waiting():
        work()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_second_of_two_devices_gives_what_the_first_gives(backend: Backend, operation: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one device")
    results = []
    for device in ("cuda:0", "cuda:1"):
        [(_, (arguments, options))] = calls_of(operation, Inputs(256, 1024, torch.bfloat16))
        placed = [value.to(device) if isinstance(value, Tensor) else value for value in arguments]
        returned = getattr(backend, operation)(*placed, **options)
        both = [*placed, *(returned if isinstance(returned, tuple) else (returned,))]
        results.append([value.cpu() for value in both if isinstance(value, Tensor)])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_the_bandwidth_of_every_operation_is_shown(
    backend: Backend, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line("\n" + HEADER)
    plain = oracle.plain_torch(backend.device_type)
    bench = Bench(known_operations(), {MODEL_SHAPE: 1}, [torch.bfloat16])
    lines = list(run(bench, [(backend, plain)], lambda b, name, call, rows: oracle.verify(b, name, *call, rows)))
    for line in lines:
        reporter.write_line(table_row(line))
        record_property(f"GB/s of {line.operation}", line.gb_per_second)
    assert not [line.operation for line in lines if line.wrong]

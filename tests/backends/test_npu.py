"""The npu backend where there is no NPU: what its probe says, and its operations on the CPU in many small chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import unipruning_npu
from unipruning_core.testing.checks_feedback import NUMBERS, check_mask, searched
from unipruning_core.testing.inputs import FLOATS
from unipruning_core.testing.subject import Subject
from unipruning_npu import chunks
from unipruning_npu.backend import NpuBackend


class OnTheHost(NpuBackend):
    """The same operations: they are torch operators, which run on any device."""

    device_type = "cpu"


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A backend that cuts even the small matrices of these tests: the simulation's cases fit one chunk."""
    monkeypatch.setattr(chunks, "BOUND", 1 << 14)
    return Subject(OnTheHost())


def weight(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(77, 96, generator=torch.Generator().manual_seed(3)).to(dtype)


def levels() -> torch.Tensor:
    return (weight() * 1.2).round().clamp(-2, 2)


VECTORS = torch.rand(2, 96, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("accumulate_sumsq", lambda: (weight(torch.bfloat16), VECTORS[0].clone())),
        ("abs_sums", lambda: (weight(torch.float16), VECTORS, torch.rand(3, 77))),
        ("magnitude_histogram", lambda: (levels(), torch.tensor(0, dtype=torch.int32), 0, torch.zeros(2048).long())),
        ("magnitude_histogram", lambda: (levels(), torch.tensor(1016, dtype=torch.int32), 1, torch.zeros(1024).long())),
        ("threshold_mask", lambda: (levels(), torch.tensor(1.0), torch.tensor(1234))),
        ("topk_mask", lambda: (levels(), 41)),
        ("nm_mask", lambda: (levels(), 2, 4)),
        ("nm_prox", lambda: (weight(), 0.3, 2, 4)),
    ],
)
def test_chunks_give_what_the_whole_gives(
    subject: Subject, operation: str, arguments: Callable[[], tuple[Any, ...]]
) -> None:
    subject.check(operation, *arguments())


@pytest.mark.parametrize("rank", [None, 0, 1, 3333, 77 * 96])
def test_chunks_of_the_mirror_step_give_what_the_whole_gives(subject: Subject, rank: int | None) -> None:
    tensors = weight(), weight(torch.bfloat16), torch.rand(77), VECTORS[0], VECTORS[1], torch.tensor(0.5)
    gradient = weight(torch.float16)
    subject.check("mirror_step", *tensors, step_size=0.1, rank=rank, gradient=gradient, phi=0.5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drifts", [True, False])
def test_chunks_of_the_feedback_operations_give_what_the_whole_gives(
    subject: Subject, dtype: torch.dtype, drifts: bool
) -> None:
    arguments = searched(torch.Generator().manual_seed(5), (77, 96), dtype, drifts=drifts)
    w, second, drift = arguments[:3]
    subject.check("feedback_scores", *arguments, **NUMBERS)
    kept = check_mask(subject, arguments, stride=7)["kept"]
    subject.check("remask_weight", w, drift, kept, learning_rate=NUMBERS["learning_rate"])
    subject.check("feedback_step", second, drift, weight(dtype), torch.tensor(0.75), decay=0.05)


@pytest.mark.parametrize(("pattern", "stride"), [((2, 4), 1), ((16, 32), 1000)])
def test_chunks_keep_what_the_pattern_of_the_whole_keeps(
    subject: Subject, pattern: tuple[int, int], stride: int
) -> None:
    arguments = searched(torch.Generator().manual_seed(5), (77, 96), torch.bfloat16)
    check_mask(subject, arguments, pattern=pattern, stride=stride, share=0.9)


def test_a_row_longer_than_a_count_can_hold_is_cut(subject: Subject) -> None:
    ones = torch.ones(2, 5000)
    prefix, counts = torch.tensor(0, dtype=torch.int32), torch.zeros(2048, dtype=torch.int64)
    assert subject.check("magnitude_histogram", ones, prefix, 0, counts)["counts"].max() == 10_000


@pytest.mark.parametrize(
    ("torch_npu", "installed_torch", "says"),
    [
        ("2.14.0", "2.13.0+cpu", "torch_npu 2.14.0 is built for torch 2.14, but torch 2.13.0+cpu is installed"),
        ("2.7.1.post8", "2.15.0", "torch_npu 2.7.1.post8 is built for torch 2.7, but torch 2.15.0 is installed"),
        ("2.7.1.post8", "2.7.1+cpu", "Ascend device"),
        (None, "2.13.0", "Ascend device"),
    ],
)
def test_the_probe_compares_the_pair_before_it_loads_it(
    installed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    torch_npu: str | None,
    installed_torch: str,
    says: str,
) -> None:
    def version(name: str) -> str:
        found = {"torch": installed_torch, "torch_npu": torch_npu}[name]
        if found is None:
            raise PackageNotFoundError(name)
        return found

    installed()
    monkeypatch.setattr(unipruning_npu, "version", version)
    assert says in unipruning_npu.probe().detail


def fake(**members: Any) -> ModuleType:
    module = ModuleType("torch_npu")
    vars(module).update(members)
    return module


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that torch_npu is installed and sees the given chips."""

    def install(chip: int | Exception = 221, devices: int = 2) -> None:
        def version() -> int:
            if isinstance(chip, Exception):
                raise chip
            return chip

        npu = SimpleNamespace(is_available=lambda: devices > 0, device_count=lambda: devices)
        monkeypatch.setattr(unipruning_npu, "find_spec", lambda name: object())
        monkeypatch.setitem(sys.modules, "torch_npu", fake(_C=SimpleNamespace(_npu_get_soc_version=version)))
        monkeypatch.setattr(torch, "get_device_module", lambda device: npu)

    return install


def test_the_probe_says_that_torch_npu_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unipruning_npu, "find_spec", lambda name: None)
    probe = unipruning_npu.probe()
    assert not probe.available
    assert probe.detail == "torch_npu is not installed; on an Ascend server, install the torch-npu for its CANN"


@pytest.mark.parametrize(
    ("chip", "devices", "available", "words"),
    [
        (221, 2, True, "2 Ascend device(s)"),
        (250, 16, True, "16 Ascend device(s)"),
        (260, 1, True, "1 Ascend device(s)"),
        (221, 0, False, "sees no device; check npu-smi info"),
        (102, 1, False, "use an Ascend910B or a later chip"),
        (202, 1, False, "use an Ascend910B or a later chip"),
        (241, 1, False, "use an Ascend910B or a later chip"),
        (
            RuntimeError("Unsupported soc version: X\n[ERROR] long"),
            1,
            False,
            "does not load: Unsupported soc version: X;",
        ),
    ],
)
def test_the_probe_tells_the_chips_apart(
    installed: Callable[..., None], chip: int | Exception, devices: int, available: bool, words: str
) -> None:
    installed(chip, devices)
    probe = unipruning_npu.probe()
    assert probe.available == available
    assert words in probe.detail
    assert "\n" not in probe.detail


def wrapped(cause: Exception) -> RuntimeError:
    """As torch's autoload wraps what a backend's import raises."""
    error = RuntimeError("Failed to load the backend extension: torch_npu.")
    error.__cause__ = cause
    return error


NO_CANN = "libhccl.so: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError(NO_CANN), "finds no CANN (libhccl.so"),
        (wrapped(ImportError(NO_CANN)), "source the set_env.sh"),
        (wrapped(ImportError(NO_CANN)), "TORCH_DEVICE_BACKEND_AUTOLOAD=0"),
        (RuntimeError("Two accelerators cannot be used at the same time"), "install the CPU build of torch"),
        (ImportError("/opt/libtorch_npu.so: undefined symbol: _ZN5torch"), "match the versions of torch, torch_npu"),
        (RuntimeError("torch 2.1 is too old"), "match the versions of torch, torch_npu and CANN"),
        (KeyError(), "KeyError; match the versions"),
    ],
)
def test_the_probe_says_why_torch_npu_does_not_load(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    installed()

    def fail(device: str) -> None:
        raise error

    monkeypatch.setattr(torch, "get_device_module", fail)
    probe = unipruning_npu.probe()
    assert not probe.available
    assert words in probe.detail

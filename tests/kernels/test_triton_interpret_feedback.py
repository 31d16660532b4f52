"""The CUDA kernels of the feedback search in Triton's interpreter: what conformance does not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.checks_feedback import NUMBERS, searched, threshold_between
from unipruning_core.testing.compare import require_equal
from unipruning_cuda.backend import CudaBackend
from unipruning_kernels import reference, triton_feedback
from unipruning_kernels.triton_launch import Launcher

pytestmark = pytest.mark.triton_interpret


@pytest.mark.parametrize(("pattern", "launches"), [(None, 1), ((2, 4), 3), ((3, 5), 3)], ids=str)
def test_mask_weight_takes_three_launches_at_most(
    backend: CudaBackend, pattern: tuple[int, int] | None, launches: int, rng: torch.Generator
) -> None:
    arguments = searched(rng, (67, 540), torch.bfloat16)
    threshold = threshold_between(arguments, **NUMBERS)
    options = {"first": 0, "stride": 97, "pattern": pattern, **NUMBERS}
    drawn, wanted_draws = torch.empty(2, -(-67 * 540 // 97)).unbind()
    mine = backend.mask_weight(*arguments, threshold, drawn, **options)
    theirs = reference.mask_weight(*arguments, threshold, wanted_draws, **options)
    for actual, wanted in zip((*mine, drawn), (*theirs, wanted_draws), strict=True):
        require_equal("mask_weight", "result", actual, wanted, str(pattern))
    assert backend.launcher.launches.total() == launches


# of eight weights in a row some, one or none are drawn; rows start anywhere among those eight
@pytest.mark.parametrize(
    ("first", "stride"),
    [*((0, stride) for stride in (1, 2, 5, 7, 8, 9, 522, 523, 2**40)), (1, 1), (17_003, 7), (521, 522), (35_041, 2)],
)
def test_mask_weight_draws_what_a_slice_would(
    backend: CudaBackend, first: int, stride: int, rng: torch.Generator
) -> None:
    arguments = searched(rng, (67, 523), torch.bfloat16)
    wanted = backend.feedback_scores(*arguments, **NUMBERS).flatten()[first::stride]
    drawn = torch.full_like(wanted, torch.nan)
    backend.mask_weight(*arguments, torch.tensor(0.5), drawn, first=first, stride=stride, pattern=None, **NUMBERS)
    assert torch.equal(drawn, wanted)


@pytest.mark.parametrize("pattern", [None, (2, 4), (3, 5)], ids=str)
def test_a_matrix_without_rows_launches_nothing(
    backend: CudaBackend, pattern: tuple[int, int] | None, rng: torch.Generator
) -> None:
    arguments = searched(rng, (0, 60), torch.bfloat16)
    weight, second, drift = arguments[:3]
    numbers = {"first": 0, "stride": 7, "pattern": pattern, **NUMBERS}
    _, kept = backend.mask_weight(*arguments, torch.tensor(0.5), torch.empty(0), **numbers)
    backend.feedback_scores(*arguments, **NUMBERS)
    backend.remask_weight(weight, drift, kept, learning_rate=0.1)
    backend.feedback_step(second, drift, weight, torch.tensor(0.5), decay=0.1)
    assert not backend.launcher.launches


def test_mask_weight_counts_in_32_bits_only_what_fits() -> None:
    class Recorder(Launcher):
        def __call__(self, kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
            height, width = arguments[11:13]
            assert constants["chunk"] * width < 2**30
            assert programs * constants["chunk"] * constants["block"] >= height * width

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    for width in (2**14, 2**25, 2**29):
        arguments = [empty(40, width), empty(40, width), None, empty(40), empty(width), empty(width), empty(), empty(9)]
        triton_feedback.mask_weight(Recorder(), *arguments, first=0, stride=2**40, pattern=None, **NUMBERS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_remask_weight_rounds_to_sixteen_bits_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).short().view(dtype).view(256, 256)
    weight = every.where(every.isfinite() & (every.abs() < 1e4), 0.0)
    # by half a unit and a little more or less: subnormals, ties and the way up to the next binade
    drift = (weight.nextafter(torch.full_like(weight, torch.inf)).float() - weight.float()).half()
    kept = torch.full((256, 32), 255, dtype=torch.uint8)
    for share in (0.5, 0.501, 0.499, -0.25, 1.5):
        mine = CudaBackend().remask_weight(weight, drift, kept, learning_rate=share)
        theirs = reference.remask_weight(weight, drift, kept, learning_rate=share)
        require_equal("remask_weight", "masked", mine, theirs, str(share))


def test_feedback_step_rounds_to_sixteen_bits_as_torch_does() -> None:
    drift = torch.arange(-(2**15), 2**15, dtype=torch.int32).short().view(torch.float16).view(256, 256)
    drift = drift.where(drift.isfinite(), 0.0)
    for rate in (2.0**-25, 0.75 * 2.0**-24, 2.0**-12, 1.0):
        own, second = drift.clone(), torch.ones(256, 256).bfloat16()
        CudaBackend().feedback_step(second, own, torch.ones(256, 256), torch.tensor(rate), decay=0.5)
        assert torch.equal(own, (drift.float() - rate).half())
        assert torch.equal(second, torch.ones_like(second))

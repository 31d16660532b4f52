"""The CUDA kernels' numbers, in Triton's interpreter: beside conformance, the routes that only some inputs take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS, OPERATIONS
from unipruning_core.registry import Catalogue
from unipruning_core.testing.checks_feedback import NUMBERS, threshold_between
from unipruning_core.testing.compare import require_equal
from unipruning_core.testing.inputs import make_score, make_weight
from unipruning_cuda.backend import CudaBackend
from unipruning_kernels import reference, triton_kth, triton_sums, triton_topk
from unipruning_kernels.triton_launch import Launcher
from unipruning_kernels.triton_pack import apply_and_pack

pytestmark = pytest.mark.triton_interpret

KERNELS = {
    "accumulate_sumsq": {"sumsq"},
    "abs_sums": {"abs_sum"},
    "mirror_step": {"mirror", "kth_digit"},
    "feedback_scores": {"scores"},
    "mask_weight": {"mask_scored"},
    "remask_weight": {"mask_again"},
    "feedback_step": {"step"},
    "magnitude_histogram": {"histogram"},
    "threshold_mask": {"keep_at_least", "drop_excess_ties"},
    "topk_mask": {"keep_largest"},
    "nm_mask": {"nm_powers"},
    "nm_prox": {"prox_groups"},
    "adamw_step": {"adamw"},
}
# the positions of the arguments that an operation updates
IN_PLACE = {
    "accumulate_sumsq": (1,),
    "mirror_step": (0, 5),
    "magnitude_histogram": (3,),
    "nm_prox": (0,),
    "adamw_step": (0, 2, 3),
    "mask_weight": (7,),
    "feedback_step": (0, 1),
}


def arguments_of(operation: str, rng: torch.Generator, shape: tuple[int, int]) -> tuple[list[Any], dict[str, Any]]:
    score, weight = make_score(rng, shape, "levels"), make_weight(rng, shape, torch.bfloat16)
    r, p, q = torch.rand(shape[0], generator=rng), *torch.rand(2, shape[1], generator=rng).unbind()
    second, drift = score.square().bfloat16(), (4 * torch.randn(shape, generator=rng)).half()
    state = [weight, second, drift, r, p, q]
    sample = torch.empty(-(-score.numel() // 97))
    bits = torch.randint(0, 256, (shape[0], -(-shape[1] // 8)), generator=rng, dtype=torch.uint8)
    arguments: list[Any] = {
        "accumulate_sumsq": [weight, p],
        "abs_sums": [weight, torch.stack([p, q]), r[None]],
        "mirror_step": [score, weight, r, p, q, torch.tensor(0.25)],
        "feedback_scores": state,
        "mask_weight": [*state, threshold_between(tuple(state), **NUMBERS), sample],
        "remask_weight": [weight, drift, bits],
        "feedback_step": [second, drift, weight, torch.tensor(0.75)],
        "magnitude_histogram": [score, torch.tensor(0x3F800000 >> 20, dtype=torch.int32), 1, torch.zeros(1024).long()],
        "threshold_mask": [score, torch.tensor(1.0), torch.tensor(99)],
        "topk_mask": [score, shape[1] // 3],
        "nm_mask": [score, 2, 4],
        "nm_prox": [torch.rand(shape, generator=rng), 0.3, 2, 4],
        "adamw_step": [weight, weight.flip(0).contiguous(), weight * 0.5, score.square(), torch.tensor(0.25)],
    }[operation]
    options: dict[str, dict[str, Any]] = {
        "mirror_step": {
            "step_size": 0.3,
            "rank": score.numel() // 2,
            "gradient": weight.flip(0).contiguous(),
            "phi": 0.7,
        },
        "feedback_scores": NUMBERS,
        "mask_weight": {**NUMBERS, "first": 0, "stride": 97, "pattern": None},
        "remask_weight": {"learning_rate": 2.0**-6},
        "feedback_step": {"decay": 0.05},
        "adamw_step": {"step": 3, "learning_rate": 0.01, "betas": (0.9, 0.999), "epsilon": 1e-10},
    }
    return arguments, options.get(operation, {})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_launches_its_kernels(operation: str, rng: torch.Generator) -> None:
    backend = CudaBackend()
    arguments, options = arguments_of(operation, rng, (63, 100))
    getattr(backend, operation)(*arguments, **options)
    assert set(backend.launcher.launches) == KERNELS[operation]


@pytest.mark.parametrize("shape", [(67, 516), (300, 36)], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_tiles_change_nothing(
    backend: CudaBackend, operation: str, shape: tuple[int, int], rng: torch.Generator
) -> None:
    arguments, options = arguments_of(operation, rng, shape)
    expected = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    theirs = getattr(reference, operation)(*expected, **options)
    mine = getattr(backend, operation)(*arguments, **options)
    results = [(arguments[place], expected[place]) for place in IN_PLACE.get(operation, ())]
    if theirs is not None:
        results += zip(mine, theirs, strict=True) if isinstance(theirs, tuple) else [(mine, theirs)]
    for actual, wanted in results:
        require_equal(operation, "result", actual, wanted, str(shape))


@pytest.mark.parametrize("counts", [(3, 0), (0, 3), (3, 3)], ids=str)
def test_abs_sums_fold_chunks_and_parts(backend: CudaBackend, counts: tuple[int, int], rng: torch.Generator) -> None:
    weight = make_weight(rng, (300, 1100), torch.bfloat16)
    factors = torch.rand(counts[0], 1100, generator=rng), torch.rand(counts[1], 300, generator=rng)
    for mine, theirs in zip(backend.abs_sums(weight, *factors), reference.abs_sums(weight, *factors), strict=True):
        require_equal("abs_sums", "sums", mine, theirs, str(counts))
    assert backend.launcher.launches == {"abs_sum": 1}


def test_abs_sums_with_many_factors_multiply_chunk_by_chunk(
    rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_sums, "MATMUL_ELEMENTS", 1000)
    backend, weight = CudaBackend(), make_weight(rng, (63, 100), torch.bfloat16)
    factors = torch.rand(9, 100, generator=rng), torch.rand(1, 63, generator=rng)
    for mine, theirs in zip(backend.abs_sums(weight, *factors), reference.abs_sums(weight, *factors), strict=True):
        require_equal("abs_sums", "sums", mine, theirs, "in chunks")
    assert not backend.launcher.launches


@pytest.mark.parametrize("keep", [1, 20_000, 39_999])
@pytest.mark.parametrize("kind", ["distinct", "levels"])
def test_topk_mask_takes_rows_that_no_program_can_hold(kind: str, keep: int, rng: torch.Generator) -> None:
    backend, score = CudaBackend(), make_score(rng, (2, 40_000), kind)
    assert score.shape[1] > triton_topk.LONGEST
    require_equal("topk_mask", "mask", backend.topk_mask(score, keep), reference.topk_mask(score, keep), kind)
    assert backend.launcher.launches["kth_digit"] == 2 * len(triton_kth.digits_for(backend.launcher))


@pytest.mark.parametrize("kind", ["distinct", "levels", "signed zeros"])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 5), (3, 6), (11, 12), (7, 31)])
def test_nm_mask_takes_groups_of_any_size(
    backend: CudaBackend, n: int, m: int, kind: str, rng: torch.Generator
) -> None:
    score = make_score(rng, (33, 4 * m), kind)
    require_equal("nm_mask", "mask", backend.nm_mask(score, n, m), reference.nm_mask(score, n, m), kind)
    assert backend.launcher.launches["nm_any"] == 1


@pytest.mark.parametrize(
    ("n", "m", "kernel"), [(1, 2, True), (1, 4, True), (5, 8, True), (2, 5, False), (8, 16, False)]
)
@pytest.mark.parametrize("kind", ["normal", "levels"])
def test_nm_prox_of_small_groups_is_a_kernel_and_of_others_the_reference(
    backend: CudaBackend, n: int, m: int, kernel: bool, kind: str, rng: torch.Generator
) -> None:
    weight = make_weight(rng, (33, 4 * m), torch.float32, kind)
    wanted = weight.clone()
    backend.nm_prox(weight, 0.3, n, m)
    reference.nm_prox(wanted, 0.3, n, m)
    require_equal("nm_prox", "weight", weight, wanted, kind)
    assert backend.launcher.launches["prox_groups"] == kernel


def digits_spread(rng: torch.Generator, kind: str) -> Tensor:
    """Scores, (63, 130), by how they lie to the window of the first digit, or to the prefix of 1 to 1.125."""
    score = torch.rand(63, 130, generator=rng)
    if kind in ("a few far away", "many octaves"):
        far = torch.rand(63, 130, generator=rng) < (0.002 if kind == "a few far away" else 1.0)
        score *= torch.where(far, torch.exp2(torch.randint(-120, 120, score.shape, generator=rng).float()), 1.0)
    if kind == "mostly zeros":
        score[torch.rand(63, 130, generator=rng) < 0.9] = 0.0
    if kind in ("one in sixteen", "all"):
        near = torch.rand(63, 130, generator=rng) < (1 / 16 if kind == "one in sixteen" else 1.0)
        score = torch.where(near, 1.0 + score / 8, score)
    return score


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("kind", ["a few far away", "many octaves", "mostly zeros", "one in sixteen", "all"])
def test_magnitude_histogram_counts_digits_however_they_spread(
    backend: CudaBackend, kind: str, level: int, wide: bool, rng: torch.Generator
) -> None:
    backend.launcher.wide_histogram = wide
    score = digits_spread(rng, kind)
    prefix = torch.tensor(0x3F800000 >> sum(DIGIT_BITS[level:]), dtype=torch.int32)
    mine, theirs = torch.zeros(2, 2 ** DIGIT_BITS[level], dtype=torch.int64)
    backend.magnitude_histogram(score, prefix, level, mine)
    reference.magnitude_histogram(score, prefix, level, theirs)
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 100), (67, 129)], ids=str)
def test_apply_and_pack_zeroes_and_packs(shape: tuple[int, int], dtype: torch.dtype, rng: torch.Generator) -> None:
    weight = make_weight(rng, shape, dtype)
    mask = torch.rand(shape, generator=rng) > 0.5
    pruned, packed = apply_and_pack(Launcher(), weight, mask)
    assert torch.equal(pruned, weight.masked_fill(~mask, 0.0))
    assert not torch.signbit(pruned[~mask]).any()
    unpacked = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()
    assert torch.equal(unpacked[: mask.numel()].bool().view(shape), mask)
    assert not unpacked[mask.numel() :].any()


def test_the_probe_names_the_interpreter_and_auto_never_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIPRUNING_BACKEND", raising=False)
    catalogue = Catalogue()
    spec = catalogue.specs["cuda"]
    assert catalogue.probe(spec).detail.startswith("interpreter: kernels run on the CPU, for testing")
    assert (spec.device_type, catalogue.select("cuda").device_type) == ("cpu", "cpu")
    assert catalogue.select().name == "cpu"

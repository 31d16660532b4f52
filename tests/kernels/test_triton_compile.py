"""What the CUDA kernels compile to, on every architecture, against the performance bar."""

from __future__ import annotations

import re
from typing import Any

import pytest
from _gates import BAR, TRITON, compiled_costs, read_bar, worse
from _gates_cases import Case, cases
from _gates_compile import TARGETS, Launch, disassemble, measure, recorded

pytestmark = pytest.mark.triton_compile
FEEDBACK = (
    "feedback_scores: scores",
    "mask_weight: mask_scored",
    "mask_weight 2:4: mask_scored",
    "remask_weight: mask_again",
    "feedback_step: step",
)
NVIDIA = [name for name in TARGETS if name.startswith("sm_")]


@pytest.fixture(scope="module", params=list(TARGETS))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def costs(architecture: str) -> dict[str, dict[str, Any]]:
    return compiled_costs(architecture)


def launches_of(operation: str, kernel: str) -> list[Launch]:
    case = next(case for case in cases() if case.name == operation)
    return [launch for launch in recorded(case) if launch.name == kernel]


def test_no_kernel_is_worse_than_the_bar(architecture: str, costs: dict[str, dict[str, Any]]) -> None:
    bar = read_bar().get(f"{TRITON} {architecture}")
    assert bar is not None, f"{BAR.name} knows no {TRITON} {architecture}; write it with python tests/kernels/_gates.py"
    assert set(costs) == set(bar), f"{BAR.name} lists other kernels; write it again with python tests/kernels/_gates.py"
    failures = {kernel: found for kernel, cost in costs.items() if (found := worse(cost, bar[kernel]))}
    assert not failures


def test_no_kernel_spills(costs: dict[str, dict[str, Any]]) -> None:
    assert {kernel: cost["spills"] for kernel, cost in costs.items() if cost["spills"]} == {}


def test_mirror_step_takes_at_most_48_registers(costs: dict[str, dict[str, Any]]) -> None:
    for operation in ("mirror_step", "mirror_step gradient"):
        assert costs[f"{operation}: mirror"]["registers"] <= 48


def test_streaming_kernels_use_wide_accesses(architecture: str, costs: dict[str, dict[str, Any]]) -> None:
    # a warp of 64 threads takes half as much a thread
    least = 64 if architecture == "gfx942" else 128
    for kernel in ("mirror_step: mirror", "nm_mask 2:4: nm_powers", "nm_mask 4:8: nm_powers"):
        assert costs[kernel]["load bits"] >= least, kernel
    for kernel in FEEDBACK:
        assert min(costs[kernel]["load bits"], costs[kernel]["store bits"]) >= least, kernel


def test_feedback_kernels_take_at_most_72_registers(costs: dict[str, dict[str, Any]]) -> None:
    # with which a multiprocessor of NVIDIA holds 28 of 64 warps, and with 64 half of them
    assert {kernel: registers for kernel in FEEDBACK if (registers := costs[kernel]["registers"]) > 72} == {}


@pytest.mark.parametrize("target", NVIDIA)
def test_mask_weight_of_the_default_exponent_takes_no_logarithm(target: str) -> None:
    [launch] = launches_of("mask_weight", "mask_scored")
    [power] = launches_of("mask_weight power", "mask_scored")
    assert measure(launch, target, 1)["instructions"] <= 48
    assert measure(power, target, 1)["instructions"] > 48


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(("pattern", "most"), [("2:4", 20), ("4:8", 40)])
def test_nm_mask_ranks_in_few_instructions(pattern: str, most: int, target: str) -> None:
    [launch] = launches_of(f"nm_mask {pattern}", "nm_powers")
    assert measure(launch, target, 1)["instructions"] <= most


# a size of one becomes a constant at a launch, and one that sixteen does not divide forbids wide accesses
@pytest.mark.parametrize("shape", [(1, 1), (1, 32), (32, 1), (3, 36)], ids=str)
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_every_kernel_compiles_for_odd_sizes(case: Case, shape: tuple[int, int]) -> None:
    launches = recorded(case, shape)
    assert launches or (case.name == "topk_mask" and shape[1] == 1), "only a mask that keeps nothing needs no kernel"
    for launch in launches:
        assert launch.compile(TARGETS["sm_90"]).asm["cubin"]


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(
    ("operation", "kernel"),
    [
        ("mirror_step", "mirror"),
        ("mirror_step gradient", "mirror"),
        ("feedback_scores", "scores"),
        ("mask_weight", "mask_scored"),
        ("remask_weight", "mask_again"),
        ("feedback_step", "step"),
    ],
)
def test_what_must_be_exact_neither_fuses_nor_flushes(operation: str, kernel: str, target: str) -> None:
    for launch in launches_of(operation, kernel):
        _, code = disassemble(launch.compile(TARGETS[target]))
        assert "FMUL" in code
        assert not re.search(r"\bFFMA", code), "a fused multiply-add rounds once less than the definition"
        assert not re.search(r"\bF(?:ADD|MUL|MNMX|SETP)\.FTZ", code), "flushed subnormals differ from the definition's"


@pytest.mark.parametrize(("operation", "kernel"), [("threshold_mask", "keep_at_least"), ("nm_prox 2:4", "prox_groups")])
@pytest.mark.parametrize("target", NVIDIA)
def test_comparisons_and_products_keep_subnormals(operation: str, kernel: str, target: str) -> None:
    for launch in launches_of(operation, kernel):
        _, code = disassemble(launch.compile(TARGETS[target]))
        assert not re.search(r"\bF(?:ADD|MUL|FMA|MNMX|SETP)\.FTZ", code)

"""The Triton-Ascend kernels compile for an Ascend910B2 and fit its on-chip memory; nothing here runs them."""

from __future__ import annotations

from typing import Any

import pytest
from _gate import UB_BYTES, compile_for, mask_case, step_case

TARGET = "Ascend910B2"
# on-chip bytes of each, as the compiler has planned them
PLANNED = {
    "step bfloat16": (step_case("bf16", has_gradient=False), 132_416),
    "step bfloat16 and gradient": (step_case("bf16", has_gradient=True), 165_184),
    "step float16 and gradient": (step_case("fp16", has_gradient=True), 156_928),
    "step float32 and gradient": (step_case("fp32", has_gradient=True), 165_120),
    "mask 1:2": (mask_case(1, 2), 101_312),
    "mask 2:4": (mask_case(2, 4), 170_112),
    "mask 3:5": (mask_case(3, 5), 100_320),
    "mask 4:8": (mask_case(4, 8), 96_224),
    "mask 8:16": (mask_case(8, 16), 86_272),
    "mask 16:32": (mask_case(16, 32), 88_480),
}


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")


@pytest.mark.parametrize(("case", "planned"), PLANNED.values(), ids=PLANNED)
def test_a_kernel_compiles_and_takes_no_more_on_chip_memory_than_it_did(case: Any, planned: int) -> None:
    compiled = compile_for(TARGET, *case)
    assert compiled.planned, compiled.said
    assert 0 < compiled.ub_bytes <= planned <= UB_BYTES


@pytest.mark.parametrize(
    "case",
    [step_case("bf16", has_gradient=False, block=32768), mask_case(2, 4, block=512)],
    ids=["mirror step", "2:4"],
)
def test_a_tile_too_large_for_the_chip_is_refused(case: Any) -> None:
    compiled = compile_for(TARGET, *case)
    assert not compiled.planned
    assert "ub overflow" in compiled.said

"""How much memory the CUDA kernels move in the tiles of a GPU, counted in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
from _gates import BAR, read_bar, worse
from _gates_cases import Case, cases
from _gates_eager import measure_step
from _gates_traffic import measure

pytestmark = pytest.mark.triton_interpret


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_memory_traffic_is_near_the_least_and_no_worse_than_the_bar(case: Case) -> None:
    cost = measure(case)
    assert cost["ratio"] <= 1.05
    assert cost["sectors"] >= 0.95
    assert cost["atomics"] <= 0.01
    if case.name == "mirror_step":
        assert cost["bytes"] <= 10.5, "with the next threshold found on the way"
    require_no_worse(case.name, cost)


# ria: 10.5 for V and tau, 2.1 for the sums, and what does not grow with the matrix: vectors, counters, random subsets
@pytest.mark.parametrize(("step", "most"), [("step ria", 13.0), ("step drift", 37.5)])
def test_a_whole_step_moves_little_and_the_released_formulation_of_it_more_than_three_times_that(
    step: str, most: float
) -> None:
    cost = measure_step(step)
    assert cost["bytes"] <= most
    assert cost["released"] > 3 * cost["bytes"]
    require_no_worse(step, cost)


def require_no_worse(name: str, cost: dict[str, Any]) -> None:
    bar = read_bar()["traffic"].get(name)
    assert bar is not None, (
        f"{BAR.name} does not list it; write it with TRITON_INTERPRET=1 python tests/kernels/_gates.py"
    )
    assert not worse(cost, bar)

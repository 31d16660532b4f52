"""The simulated CANN: what it offers, what it refuses and how it fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Simulated = Callable[..., str]

RAISES = """
x = torch.tensor([[3.0, 1.0], [2.0, 4.0]], dtype=torch.{dtype}).npu()
try:
    {expression}
except RuntimeError as error:
    OUT.write_text(str(error))
else:
    OUT.write_text("no error")
"""


@pytest.mark.parametrize("count", ["0", "1", "2"])
def test_there_are_as_many_devices_as_asked_for(simulated: Simulated, count: str) -> None:
    seen = simulated("OUT.write_text(f'{torch.npu.device_count()} {torch.npu.is_available()}')", NPUSIM_DEVICES=count)
    assert seen == f"{count} {count != '0'}"


@pytest.mark.parametrize(
    ("operator", "dtype", "expression"),
    [
        ("aclnnSort", "bfloat16", "x.sort(dim=1)"),
        ("aclnnCumsum", "bfloat16", "x.cumsum(1)"),
        ("aclnnGather", "bfloat16", "x.gather(1, torch.zeros(2, 1, dtype=torch.int64).npu())"),
        ("aclnnKthvalue", "int64", "x.kthvalue(1)"),
        ("aclnnBatchMatMul", "int32", "torch.bmm(x[None], x[None])"),
        ("aclnnTopk", "bool", "x.topk(1)"),
        ("aclnnHistc", "bfloat16", "x.histc(2, 0, 4)"),
        ("aclnnSoftshrink", "bfloat16", "torch.nn.functional.softshrink(x, 1.0)"),
        ("aclnnHardshrink", "bfloat16", "torch.nn.functional.hardshrink(x, 1.0)"),
        ("aclnnBitwiseAnd", "float32", "torch.bitwise_and(x, x)"),
        ("aclnnSqrt", "float64", "x.sqrt()"),
        ("aclnnForeachMulList", "float64", "torch._foreach_mul_([x], [x])"),
    ],
)
def test_a_dtype_that_no_documentation_lists_is_refused(
    simulated: Simulated, operator: str, dtype: str, expression: str
) -> None:
    message = simulated(RAISES.format(dtype=dtype, expression=expression))
    assert "161002" in message
    assert operator in message


@pytest.mark.parametrize("expression", ["x.sort(dim=1)", "x.cumsum(1)", "x.kthvalue(1)", "torch.bmm(x[None], x[None])"])
def test_single_precision_is_taken(simulated: Simulated, expression: str) -> None:
    assert simulated(RAISES.format(dtype="float32", expression=expression)) == "no error"


def test_an_operator_that_is_not_simulated_names_itself(simulated: Simulated) -> None:
    assert "LogAddExp is not simulated" in simulated(RAISES.format(dtype="float32", expression="torch.logaddexp(x, x)"))


def test_an_operator_without_a_kernel_does_not_run_on_the_cpu(simulated: Simulated) -> None:
    message = simulated(RAISES.format(dtype="float32", expression="torch.cholesky_inverse(x)"))
    assert "cholesky_inverse" in message


def test_memory_runs_out_where_it_was_told_to(simulated: Simulated) -> None:
    message = simulated(RAISES.format(dtype="float32", expression="torch.empty(1 << 28).npu()"), NPUSIM_MEM_MB="256")
    assert "out of memory" in message
    assert "256.00 MiB total capacity" in message


def test_an_unstable_sort_leaves_equals_in_another_order(simulated: Simulated) -> None:
    code = "OUT.write_text(str(torch.zeros(1, 4).npu().sort(dim=1, stable={}).indices.tolist()))"
    assert simulated(code.format(True)) == "[[0, 1, 2, 3]]"
    assert simulated(code.format(False)) == "[[3, 2, 1, 0]]"

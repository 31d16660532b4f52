"""The benchmark: what is right is timed, what is wrong is not, and the figures follow from the times."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unipruning_core.backend import OPERATIONS
from unipruning_core.cli import choose_bench as bench_words
from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.testing import oracle
from unipruning_core.tools.bench import baseline as bench_baseline
from unipruning_core.tools.bench.cases import OPERATION_KINDS, Case, Inputs, calls_of, parts_of, ready
from unipruning_core.tools.bench.report import DERIVED
from unipruning_core.tools.bench.run import Bench, BenchLine, Copies, known_operations, measure, run, summed
from unipruning_cpu.backend import CpuBackend

PLAIN = oracle.plain_torch("cpu")
SMALL = {(12, 16): 1}
TIMES = {"median": 2e-3, "p20": 1e-3, "p80": 3e-3, "copy": 1e-3, "baseline": 8e-3}
LINE = BenchLine("cpu", "nm_mask", "4x8", "bfloat16", 1, 32, 5.0, **TIMES)


def judge(backend, name, call, rows):
    oracle.verify(backend, name, *call, rows)


def lines_of(backend, **words):
    words = {"operations": known_operations(), "shapes": SMALL, "dtypes": [torch.bfloat16], "repeat": 2} | words
    return list(run(Bench(**words), [(backend, PLAIN)], judge))


def breaking(operation, damage):
    """A backend whose one operation does its work and then damage, to its first argument or to its result."""

    def broken(self, *arguments, **options):
        returned = getattr(PLAIN, operation)(*arguments, **options)
        return damage(arguments, returned)

    return type("Broken", (type(PLAIN),), {operation: broken})()


def flip_last(tensor):
    """Another value in the last place."""
    flat = tensor.view(-1)
    flat[-1] = ~flat[-1] if tensor.dtype == torch.bool else flat[-1] + 1


def damage_result(arguments, returned):
    """The result's, or the last element of the first thing that changed in place."""
    changed = returned[0] if isinstance(returned, tuple) else returned
    flip_last(next(t for t in (changed, arguments[-1], arguments[0]) if isinstance(t, torch.Tensor)))
    return returned


def test_all_operations_of_the_contract_can_be_measured():
    assert set(OPERATIONS) < set(known_operations())
    assert known_operations() == list(OPERATION_KINDS)
    assert {part for name in known_operations() for part in parts_of(name)} == set(OPERATIONS)


def test_inputs_are_the_same_each_time_and_others_for_another_shape():
    for name in OPERATIONS:
        (_, (first, _)), (_, (second, _)) = (calls_of(name, Inputs(8, 16, torch.float32))[0] for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert not torch.equal(Inputs(8, 16, torch.float32).weight, Inputs(16, 8, torch.float32).weight.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_operation_of_a_right_backend_gets_a_time(dtype):
    lines = lines_of(CpuBackend(), dtypes=[dtype])
    assert [line.operation for line in lines] == known_operations()
    for line in lines:
        assert line.wrong is None
        assert 0 < line.p20 <= line.median <= line.p80
        assert all(getattr(line, name) > 0 for name in DERIVED if name != "speedup")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_wrong_result_has_no_time(operation):
    wrong = lines_of(breaking(operation, damage_result))
    for line in wrong:
        if operation in parts_of(line.operation):
            assert operation in line.wrong
            assert line.median is None
            assert line.copy is None
        else:
            assert line.median > 0
    assert any(line.wrong is None for line in wrong)


def test_an_input_that_changes_is_a_wrong_result():
    def damage(arguments, returned):
        flip_last(arguments[0])
        return returned

    (line,) = lines_of(breaking("nm_mask", damage), operations=["nm_mask"])
    assert "argument 0 must not change" in line.wrong


@pytest.mark.parametrize("row", [0, 999])
def test_a_sample_of_rows_has_the_first_and_the_last(row):
    def damage(arguments, returned):
        arguments[0][row, 3] += 1

    weight = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))
    oracle.verify(PLAIN, "nm_prox", (weight, 0.1, 2, 4), {}, 5)
    with pytest.raises(AssertionError, match="nm_prox: argument 0"):
        oracle.verify(breaking("nm_prox", damage), "nm_prox", (weight, 0.1, 2, 4), {}, 5)


def test_the_least_bytes_are_one_read_and_one_write_of_each_tensor():
    inputs = Inputs(64, 128, torch.bfloat16)
    for name in set(OPERATIONS) - {"mirror_step", "nm_prox", "adamw_step", "feedback_step"}:  # these write in place
        ((_, (arguments, options)),) = calls_of(name, inputs)
        returned = getattr(PLAIN, name)(
            *[a.clone() if isinstance(a, torch.Tensor) else a for a in arguments], **options
        )
        results = returned if isinstance(returned, tuple) else (returned,)
        moved = sum(
            t.nbytes for t in (*arguments, *results) if isinstance(t, torch.Tensor) and t.dim() == 2 and len(t) == 64
        )
        assert Case(name, 64, 128, torch.bfloat16).least_bytes == moved / (64 * 128)
    assert Case("mirror_step", 64, 128, torch.bfloat16).least_bytes == 10
    assert Case("nm_prox", 64, 128, torch.float16).least_bytes == 4
    assert Case("adamw_step", 64, 128, torch.bfloat16).least_bytes == 18
    assert Case("feedback_step", 64, 128, torch.bfloat16).least_bytes == 10
    assert Case("step ria", 64, 128, torch.bfloat16).least_bytes == 12
    between = (
        Case("step drift", 64, 128, torch.bfloat16).least_bytes
        - Case("step stochria", 64, 128, torch.bfloat16).least_bytes
    )
    assert between == 20, "the gradient's norm, and AdamW"


@pytest.mark.parametrize("baseline", ["eager", "released", "compile"])
def test_a_baseline_is_timed_beside_what_it_has_a_counterpart_for(monkeypatch, baseline):
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    lines = lines_of(CpuBackend(), baseline=baseline)
    released = {"step ria", "step stochria", "step drift", "nm_mask", "topk_mask"}
    like = released if baseline == "released" else set(known_operations())
    assert {line.operation for line in lines if line.speedup is not None} == like


def test_a_compiler_that_fails_is_explained(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", lambda work, **_: refuse)
    with pytest.raises(ConfigError, match="baseline of 'nm_mask': no C\\+\\+ compiler; use --baseline eager"):
        lines_of(CpuBackend(), operations=["nm_mask"], baseline="compile")


def test_the_released_step_and_ours_pull_alike_from_nothing():
    inputs = Inputs(24, 32, torch.float32)
    inputs.dual.zero_()
    ours, theirs = inputs.dual.clone(), inputs.dual.clone()
    backend = CpuBackend()
    step = type("Kept", (CpuBackend,), {"mirror_step": lambda _, dual, *a, **o: backend.mirror_step(ours, *a, **o)})
    ready("step ria", inputs, step())()
    bench_baseline._released_step(inputs.weight, inputs.norm.sqrt(), theirs, torch.zeros(24, 32), None)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("operation", "arguments"), [("nm_mask", (2, 4)), ("topk_mask", (16,))])
def test_the_released_masks_are_ours_where_nothing_ties(operation, arguments):
    dual = Inputs(24, 32, torch.float32).dual
    released = getattr(bench_baseline, f"_released_{operation}")
    assert torch.equal(released(dual, *arguments), getattr(PLAIN, operation)(dual, *arguments))


def test_a_short_run_is_repeated_inside_a_sample():
    runs = []
    p20, median, p80 = measure(lambda: runs.append(1), "cpu", repeat=3)
    assert len(runs) > 300
    assert 0 < p20 <= median <= p80 < 1e-4


def test_a_copy_of_one_size_is_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr("unipruning_core.tools.bench.run.measure", lambda *_, **__: calls.append(1) or (1.0, 2.0, 3.0))
    copies = Copies("cpu", 2)
    assert [copies.seconds(800), copies.seconds(800), copies.seconds(1600)] == [2.0, 2.0, 2.0]
    assert len(calls) == 2


def test_figures_follow_from_the_times():
    assert LINE.ns_per_element == pytest.approx(62500)
    assert LINE.gb_per_second == pytest.approx(8e-5)
    assert LINE.percent_of_copy == pytest.approx(50)
    assert LINE.bytes_at_copy_speed == pytest.approx(10)
    assert LINE.speedup == pytest.approx(4)


def test_a_model_is_the_sum_of_its_layers():
    large = replace(LINE, shape="8x8", layers=3, elements=192, least_bytes=6.0, median=6e-3)
    total, other = summed([LINE, large, replace(LINE, operation="topk_mask")])
    assert (total.shape, total.layers, total.elements) == ("sum", 4, 224)
    assert total.median == pytest.approx(8e-3)
    assert total.least_bytes == pytest.approx((5 * 32 + 6 * 192) / 224)
    assert other.median == LINE.median
    assert summed([LINE, replace(large, median=None, wrong="it is")]) == []
    assert summed([LINE, replace(large, baseline=None)])[0].speedup is None


def test_the_command_shows_no_time_for_a_wrong_result_and_exits_with_1(monkeypatch, capsys):
    broken = breaking("nm_mask", damage_result)
    monkeypatch.setattr(bench_words, "choose_backends", lambda _: ([broken], {"reference": "broken"}))
    assert main(["bench", "nm_mask", "topk_mask", "--shape", "4x8", "--repeat", "2"]) == 1
    wrong, right = (line for line in capsys.readouterr().out.splitlines() if line.startswith("reference "))
    assert "WRONG: nm_mask: result 0[3, 7] is" in wrong
    assert "WRONG" not in right

"""The conformance suite is itself tested: a backend with a defect fails on that defect, one without passes."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import wrong_backends
import wrong_feedback

import unipruning_core.testing
from unipruning_core import BackendSpec, Probe, hookimpl, registry
from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import ConfigError
from unipruning_core.testing.compare import bits
from unipruning_core.testing.runner import run
from unipruning_core.testing.watch import Watch
from unipruning_kernels import reference

DEFECTS = [
    ("accumulate_sumsq", "ConvertsLate", "accumulate_sumsq: out["),
    ("accumulate_sumsq", "ReplacesInsteadOfAdding", "accumulate_sumsq: out["),
    ("accumulate_sumsq", "WritesAroundTheView", "the storage around the in-place argument accumulate_sumsq: out"),
    ("abs_sums", "SumsInBfloat16", "abs_sums: rows["),
    ("abs_sums", "ForgetsTheLastBlock", "abs_sums: rows["),
    ("abs_sums", "RepeatsTheFirstFactor", "abs_sums: rows["),
    ("abs_sums and number", "NeedsAFactorEachWay", "abs_sums: rows is (1, "),
    ("mirror_step", "StepsOutOfPlace", "mirror_step: dual["),
    ("mirror_step", "ReplacesTheStorage", "mirror_step: dual must be updated in place"),
    ("mirror_step", "ReturnsTheDual", "mirror_step: it works in place and must return None"),
    ("mirror_step", "InterpolatesTheThreshold", "mirror_step: threshold[] is"),
    ("mirror_step", "TakesTheThresholdOfTheOldDual", "mirror_step: threshold[] is"),
    ("mirror_step", "CountsRanksFromZero", "mirror_step: threshold[] is"),
    ("mirror_step", "MovesTheThresholdWithoutRank", "mirror_step: threshold[] is"),
    ("mirror_step", "FusesMultiplyAndAdd", "mirror_step: dual["),
    ("mirror_step", "DropsTheGradient", "mirror_step: dual["),
    ("feedback_scores and repeat", "AddsNoiseOfHalfAnUlp", "must be the same bits on every call"),
    ("feedback_scores", "LeavesTheTailUnwritten", "is nan, the reference gives"),
    ("feedback_scores and repeat", "ReusesItsBuffer", "must be fresh, but two calls share its memory"),
    ("feedback_scores", "ForgetsTheDrift", "feedback_scores: score["),
    ("feedback_scores", "ScoresTheWeightsThatStay", "feedback_scores: score["),
    ("feedback_scores", "AliasesTheInput", "the input feedback_scores: weight must not change"),
    ("mask_weight", "MasksWhatEqualsTheThreshold", "mask_weight: masked["),
    ("mask_weight", "MasksTheWeightsThatStay", "mask_weight: masked["),
    ("mask_weight", "PacksFromTheHighestBit", "mask_weight: kept["),
    ("mask_weight", "SetsTheBitsPastTheLastInput", "mask_weight: kept["),
    ("mask_weight", "DrawsRowByRow", "mask_weight: sample["),
    ("mask_weight and first", "DrawsFromTheTop", "mask_weight: sample["),
    ("mask_weight and pattern", "IgnoresThePattern", "mask_weight: "),
    ("remask_weight", "LeavesNegativeZeros", "remask_weight: masked["),
    ("remask_weight", "RemasksTheWeightsThatStay", "remask_weight: masked["),
    ("remask_weight or without_rows", "NeedsARow", "remask_weight: masked is (1, "),
    ("feedback_step", "FollowsTheRoundedMoment", "feedback_step: drift["),
    ("feedback_step", "ForgetsTheRate", "feedback_step: drift["),
    ("feedback_step", "DividesByNothing", "feedback_step: drift["),
    ("feedback_step and strides", "MovesACopyOfTheDrift", "feedback_step: drift["),
    ("magnitude_histogram", "IgnoresThePrefix", "magnitude_histogram: counts["),
    ("magnitude_histogram", "OverwritesTheCounts", "magnitude_histogram: counts["),
    ("magnitude_histogram", "CountsInInt32", "magnitude_histogram: counts["),
    ("magnitude_histogram", "HeedsThePrefixAtTheTop", "magnitude_histogram: counts["),
    ("threshold_mask", "KeepsWhatEqualsTheThreshold", "threshold_mask: mask["),
    ("threshold_mask", "TakesTiesFromTheEnd", "threshold_mask: mask["),
    ("topk_mask", "KeepsOneTooMany", "topk_mask: mask["),
    ("topk_mask", "BreaksTiesAsTorchTopk", "topk_mask: mask["),
    ("topk_mask", "RanksBySign", "topk_mask: mask["),
    ("topk_mask", "ChangesItsInput", "the input topk_mask: score must not change"),
    ("topk_mask", "FlushesDenormals", "topk_mask: mask["),
    ("nm_mask", "BreaksTiesBackwards", "nm_mask: mask["),
    ("nm_mask", "IgnoresStrides", "nm_mask: mask["),
    ("nm_mask", "LeavesMaskBytesUnwritten", "the element was never written"),
    ("nm_mask", "GivesStridedMasks", "nm_mask: mask must be contiguous"),
    ("nm_mask", "GivesByteMasks", "torch.uint8, the reference gives"),
    ("nm_prox", "ForgetsSigns", "nm_prox: weight["),
    ("nm_prox", "AlwaysCuts", "nm_prox: weight["),
    ("nm_prox", "ForgetsOtherPatterns", "nm_prox: weight["),
    ("nm_prox and strides", "ProxesACopy", "nm_prox: weight["),
    ("adamw_step", "ForgetsTheScale", "adamw_step: weight["),
    ("adamw_step", "CorrectsNoBias", "adamw_step: weight["),
    ("adamw_step", "RoundsTheSecondMoment", "adamw_step: second["),
    ("adamw_step and gradient", "SquaresInHalfPrecision", "adamw_step: weight["),
    ("adamw_step and strides", "MovesACopyOfTheMoment", "adamw_step: first["),
]


@dataclass
class Plugin:
    """An entry point and the module it names, in one."""

    spec: BackendSpec
    value: str = "unipruning_cpu"  # a manifest that imports no torch
    name = "subject"

    def load(self) -> Plugin:
        return self

    @hookimpl
    def unipruning_backend(self) -> BackendSpec:
        return self.spec

    # pluggy keeps plugins in a dictionary
    __hash__ = object.__hash__


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Make a class with a defect the backend called "subject"."""

    def install(defect: str, optimised: set[str] | None = None, **place: str) -> None:
        module = next(module for module in (wrong_backends, wrong_feedback) if hasattr(module, defect))
        backend = getattr(module, defect)
        own = {
            operation for operation in OPERATIONS if getattr(backend, operation) is not getattr(reference, operation)
        }
        plugin = Plugin(
            BackendSpec(
                "subject",
                "cpu",
                priority=0,
                target=f"{module.__name__}:{defect}",
                probe=lambda: Probe(True, "here"),
                optimised=frozenset(own if optimised is None else optimised),
            ),
            **place,
        )
        monkeypatch.setattr(registry, "entry_points", lambda group: [plugin])

    return install


def conform(*arguments: str) -> int:
    # the outer pytest owns the fault handler, and collects garbage for whoever looks for exceptions nobody raised
    return run("subject", ["-q", "-p", "no:faulthandler", "-p", "no:unraisableexception", *arguments])


def test_suite_passes_a_correct_backend(install, capsys):
    # all operations of one pass in tests/packaging
    install("Control")
    assert conform("-k", "nm_mask or abs_sums or manifest") == 0
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize(("operation", "defect", "complaint"), DEFECTS, ids=[row[1] for row in DEFECTS])
def test_suite_catches(install, capsys, operation, defect, complaint):
    install(defect)
    assert conform("-x", "-k", operation) == 1
    assert complaint in capsys.readouterr().out


@pytest.mark.parametrize("optimised", [set(), {"nm_mask", "topk_mask"}], ids=["nothing", "too much"])
def test_suite_catches_a_manifest_that_declares(install, capsys, optimised):
    install("BreaksTiesBackwards", optimised)
    assert conform("-k", "manifest") == 1
    assert "declare" in capsys.readouterr().out


def test_suite_catches_a_manifest_that_imports_torch(install, capsys):
    install("Control", value="heavy_manifest")
    assert conform("-k", "manifest") == 1
    assert "'heavy_manifest', which every command reads, imports torch; put the class" in capsys.readouterr().out


def test_suite_fails_a_whole_search_on_one_wrong_operation(install, capsys):
    install("TakesTiesFromTheEnd")
    assert conform("-k", "search") == 1
    assert "test_search_and_projection" in capsys.readouterr().out


def test_every_operation_has_a_defect_that_is_caught():
    assert {row[0].split()[0] for row in DEFECTS} == set(OPERATIONS)


def test_every_check_of_the_package_is_collected(install, capsys):
    install("Control")
    written = [
        node.name
        for path in Path(unipruning_core.testing.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(written) == len(set(written)), "two checks share a name, so one of them hides the other"
    assert conform("--collect-only") == 0
    collected = {line.split("::")[1].split("[")[0] for line in capsys.readouterr().out.splitlines() if "::" in line}
    assert collected == set(written)


def test_suite_refuses_a_backend_that_cannot_run(install, capsys):
    install("Control")
    assert run("nowhere", ["-q", "-p", "no:faulthandler"]) == pytest.ExitCode.USAGE_ERROR
    assert "no backend is called 'nowhere'" in capsys.readouterr().err


def test_suite_without_pytest_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ConfigError, match="pip install pytest"):
        run("cpu")


@pytest.mark.parametrize(
    "wait",
    [
        torch.Tensor.item,
        bool,
        float,
        torch.Tensor.nonzero,
        lambda tensor: torch.equal(tensor, tensor),
    ],
    ids=["item", "bool", "float", "nonzero", "equal"],
)
def test_watch_catches_waiting_for_the_device(wait):
    with Watch(forbid_waiting=True), pytest.raises(AssertionError, match="no host synchronisation"):
        wait(torch.ones(()))


@pytest.mark.parametrize("operation", ["mirror_step", "nm_prox"])
def test_watch_lets_the_reference_through(operation):
    weight, vector = torch.rand(4, 8), torch.rand(8)
    with Watch(forbid_waiting=True):
        if operation == "nm_prox":
            reference.nm_prox(weight, 0.1, 2, 4)
        else:
            threshold = torch.zeros(())
            reference.mirror_step(weight, weight.clone(), vector[:4], vector, vector, threshold, step_size=0.1, rank=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: torch.empty(3, 2, dtype=dtype),
        lambda dtype: torch.empty_like(torch.zeros(3, 2, dtype=dtype)),
        lambda dtype: torch.zeros(1, dtype=dtype).new_empty(3, 2),
        lambda dtype: torch.empty_strided((3, 2), (1, 3), dtype=dtype),
    ],
    ids=["empty", "empty_like", "new_empty", "empty_strided"],
)
def test_watch_poisons_memory_nobody_wrote(make, dtype):
    with Watch(forbid_waiting=False):
        tensor = make(dtype)
    if dtype.is_floating_point:
        assert tensor.isnan().all()
    else:
        assert (bits(tensor).view(torch.uint8) == 255).all()

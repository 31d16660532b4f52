"""A plan and the search it plans: the same settings, and weights in the same dtype."""

from __future__ import annotations

import json

import pytest
import torch
from _checkpoints import save_llama, save_tokenizer

from unipruning_core.backend import Probe
from unipruning_core.cli.arguments import settings_from
from unipruning_core.cli.main import build_parser, main
from unipruning_core.jobs.opened import OnDisk
from unipruning_core.models.loading import ModelChoice
from unipruning_core.progress import Progress
from unipruning_core.search.modes import MODES
from unipruning_cpu.backend import CpuBackend

FLOATS = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
REMARK = "a search on this machine, with backend cpu, loads it in float32; --backend cpu plans that"


@pytest.fixture(params=["a slow CPU", "a fast CPU"])
def loads_half_precision(request, monkeypatch):
    """Whether this CPU has instructions for half precision."""
    monkeypatch.setenv("UNIPRUNING_BACKEND", "cpu")
    monkeypatch.setattr(
        CpuBackend, "loading_dtype", lambda _, stored: stored if request.param == "a fast CPU" else torch.float32
    )
    return request.param == "a fast CPU"


@pytest.fixture
def planned(tmp_path, capsys):
    def plan(model, *words):
        file = tmp_path / "plan.json"
        assert main(["plan", str(model), "--seq-len", "16", "--json", str(file), *words]) == 0
        return json.loads(file.read_text()), capsys.readouterr().out

    return plan


@pytest.mark.parametrize("config", ["as saved", "of another dtype", "without a dtype", "alone"])
@pytest.mark.parametrize("stored", FLOATS)
def test_a_plan_for_a_backend_has_the_dtype_that_a_search_loads(
    stored, config, loads_half_precision, planned, tmp_path
):
    model = save_llama(tmp_path / "model", dtype=FLOATS[stored])
    save_tokenizer(model)
    path = model / "config.json"
    content = json.loads(path.read_text())
    if config == "of another dtype":
        content["dtype"] = "float16" if stored == "float32" else "float32"
    elif config == "without a dtype":
        del content["dtype"]
    path.write_text(json.dumps(content))
    plan, printed = planned(path if config == "alone" else model, "--backend", "cpu")
    assert FLOATS[plan["dtype"]] == OnDisk(ModelChoice(str(model)), "cpu", Progress()).dtype
    assert (f"stored in {stored}, in which this device is slow" in printed) == (plan["dtype"] != stored)
    # which projection writes as they were
    assert plan["files"]["each pruned checkpoint"] == FLOATS[stored].itemsize * plan["parameters"]


def test_a_plan_for_any_machine_says_where_a_search_on_this_one_differs(loads_half_precision, planned, tmp_path):
    plan, printed = planned(save_llama(tmp_path / "model"))
    assert plan["dtype"] == "bfloat16"
    assert (REMARK in printed) == (not loads_half_precision)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_dtype_that_is_named_is_planned_whatever_the_backend_prefers(dtype, loads_half_precision, planned, tmp_path):
    plan, printed = planned(save_llama(tmp_path / "model"), "--backend", "cpu", "--dtype", dtype)
    assert plan["dtype"] == dtype
    assert "slow" not in printed
    assert plan["files"]["each pruned checkpoint"] == 2 * plan["parameters"]


def test_memory_is_counted_in_the_dtype_that_is_loaded(planned, tmp_path, monkeypatch):
    model = save_llama(tmp_path / "model")
    monkeypatch.setattr(CpuBackend, "loading_dtype", lambda *_: torch.float32)
    assert planned(model, "--backend", "cpu")[0]["memory"] == planned(model, "--dtype", "float32")[0]["memory"]


def test_a_backend_that_cannot_run_here_is_planned_as_stored(planned, tmp_path, monkeypatch):
    monkeypatch.setattr("unipruning_core.registry.Catalogue.probe", lambda *_: Probe(False, "no device"))
    plan, printed = planned(save_llama(tmp_path / "model"), "--backend", "cpu")
    assert plan["dtype"] == "bfloat16"
    assert "slow" not in printed


@pytest.mark.parametrize("mode", [None, *MODES])
def test_a_plan_without_options_has_the_settings_of_a_search_without(mode):
    words = ["--mode", mode] if mode else []
    plan = build_parser().parse_args(["plan", "MODEL", *words])
    search = build_parser().parse_args(["search", "MODEL", "--out", "RUN", *words])
    assert settings_from(plan) == settings_from(search)
    assert (plan.samples, plan.seq_len, plan.dtype) == (search.samples, search.seq_len, search.dtype)


def test_the_help_of_both_has_the_same_default_metric(capsys):
    texts = []
    for command in ("plan", "search"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        texts.append(capsys.readouterr().out.partition("\n  --metric ")[2].partition("\n  --")[0].split())
    assert "(default:" in texts[0]
    assert texts[0] == texts[1]

"""What a sparsity means for the whole model: how it is told, and asked for."""

from __future__ import annotations

import json

import pytest
from _checkpoints import FakeScores, parsed
from _folders import SEARCH, succeed
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError, RunError
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.projection.report import read_report
from unipruning_core.search.run_folder import Run
from unipruning_core.sparsity.parse import check_fits, parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.documents import sealed
from unipruning_cpu.backend import CpuBackend

MODEL = 30112  # weights of the mixture, of which
EMBEDDINGS = 3072  # in input and output
EXPERTS, ATTENTION = 18432, 8192


@pytest.fixture(scope="module")
def words(mixture):
    data = ["--data", mixture / "text.txt", *SEARCH, "--mode", "frozen", "--backend", "cpu"]
    return [mixture / "model", *data]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    """A finished search of all layers but the experts."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    succeed("search", *words, "--out", folder, "--exclude", "*.experts.*")
    return folder


def test_a_search_says_which_part_of_the_model_its_targets_are(words, tmp_path, capsys):
    succeed("search", *words, "--out", tmp_path / "all")
    told = capsys.readouterr()
    fraction = (EXPERTS + ATTENTION) / (MODEL - EMBEDDINGS)
    assert f"with 0.0 M weights, {fraction:.1%} of the model's 0.0 M outside embeddings" in told.err
    assert "stay dense at every sparsity" not in told.err
    assert f"layers with {EXPERTS + ATTENTION} weights, {(EXPERTS + ATTENTION) / MODEL:.1%} of the model" in told.out
    succeed("search", *words, "--out", tmp_path / "few", "--exclude", "*.experts.*")
    dense = 1 - ATTENTION / (MODEL - EMBEDDINGS)
    said = (
        f"{dense:.1%} of the weights outside embeddings stay dense at every sparsity; 'unipruning targets MODEL' lists"
    )
    assert said in capsys.readouterr().err


def test_a_projection_says_what_is_pruned_of_the_model(words, run, tmp_path, capsys):
    succeed("project", words[0], run, "--sparsity", "60%/global", "--out", tmp_path / "out")
    wanted = round(0.6 * ATTENTION)
    printed = capsys.readouterr().out
    assert f"pruned {wanted} of {ATTENTION} target weights" in printed
    assert f"{wanted / MODEL:.4%} of the model's {MODEL}; zeros" in printed
    overall = read_report(tmp_path / "out")["overall"]
    assert overall["sparsity"] == wanted / ATTENTION
    assert overall["model"] == {"weights": MODEL, "pruned": wanted, "sparsity": wanted / MODEL}


@pytest.mark.parametrize("text", ["10%/model", "0%/model", "12.3456789%/model"])
def test_a_ratio_of_the_model_is_met_exactly(words, run, tmp_path, text):
    succeed("project", words[0], run, "--sparsity", text, "--sparsity", "2:4", "--out", tmp_path / "out")
    out = tmp_path / "out" / text.replace("%/", "-")
    kept = MODEL - parse_sparsity(text).keep(MODEL)
    overall = read_report(out)["overall"]
    assert overall["asked"] == text
    assert overall["model"]["pruned"] == kept
    masks = read_masks(out, False)
    assert masks.sparsity == text
    assert sum(int((~masks.read(target.name)).sum()) for target in masks.targets) == kept


def test_a_ratio_of_the_model_keeps_the_largest_scores_of_all_targets(words, run, tmp_path):
    equal = f"{100 * MODEL * 0.1 / ATTENTION:.9f}%/global"
    for name, text in (("model", "10%/model"), ("global", equal)):
        succeed("project", words[0], run, "--sparsity", text, "--out", tmp_path / name)
    one, other = (read_masks(tmp_path / name, False) for name in ("model", "global"))
    assert all(bool((one.read(t.name) == other.read(t.name)).all()) for t in one.targets)


def test_more_than_the_targets_hold_is_refused_before_the_search(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unipruning_core.jobs.opened.load_model", None)
    few = ["--exclude", "*.experts.*", "--out", tmp_path / "out"]
    assert main([str(word) for word in ("prune", *words, *few, "--sparsity", "30%/model")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"prunes {round(0.3 * MODEL)} of the model's {MODEL} weights, but its targets hold only {ATTENTION}" in error
    assert "ask for less than 27.2%/model" in error


def test_what_no_search_has_counted_is_counted_in_the_checkpoint(mixture, tmp_path):
    checkpoint = Checkpoint.open(mixture / "model")
    names = [name for name in checkpoint.tensors if "self_attn" in name]
    targets = tuple(Target(name, checkpoint.tensors[name].shape) for name in names)
    scores = FakeScores(checkpoint, targets)
    (written,) = project(checkpoint, scores, parsed("10%/model"), tmp_path / "out", CpuBackend())
    assert (written.model_weights, written.pruned, written.total) == (MODEL, round(0.1 * MODEL), ATTENTION)


def test_a_model_in_memory_is_pruned_to_a_ratio_of_all_its_weights(mixture):
    model = AutoModelForCausalLM.from_pretrained(mixture / "model")
    tokenizer = AutoTokenizer.from_pretrained(mixture / "model")
    given = {"data": ["word1 word2 word3 word4 " * 30], "samples": 2, "seq_len": 16, "mode": "frozen"}
    scores = unipruning.search(model, tokenizer, progress=False, exclude="*.self_attn.*", **given)
    assert scores.model_weights == MODEL
    with pytest.raises(ConfigError, match="its targets hold only"):
        unipruning.project(model, scores, sparsity="70%/model", progress=False)
    masks = unipruning.project(model, scores, sparsity="30%/model", progress=False)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.3 * MODEL)


@pytest.mark.parametrize("text", ["2:4+50%/model@45%", "2:4+dense@45%/model", "50%/Model", "50%/models"])
def test_a_ratio_of_the_model_is_no_part_of_a_mix(text):
    with pytest.raises(ConfigError):
        parse_sparsity(text)


def test_a_sparsity_of_another_scope_fits_whatever_the_model_holds():
    for text in ("99%", "99%/global", "99%/row", "2:4"):
        check_fits(parse_sparsity(text), [Target("a", (4, 8))], 10**9)


def test_a_plan_says_what_a_sparsity_is_of_the_model(home, tmp_path, capsys):
    words = ["plan", str(home / "model"), "--exclude", "*.mlp.*", "--mode", "frozen", "--seq-len", "8"]
    asked = [*words, "--sparsity", "10%/model", "--sparsity", "50%", "--json", str(tmp_path / "plan.json")]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    attention, model, embeddings = 2304, 10488, 2304
    assert f"{attention / (model - embeddings):.1%} of those outside embeddings" in printed
    assert f"10%/model prunes {round(0.1 * model)} of {attention} target weights" in printed
    assert f"{0.5 * attention / model:.4%} of the model" in printed
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["parameters"], written["embeddings"], written["weights"]) == (model, embeddings, attention)
    assert main([*words, "--sparsity", "30%/model"]) == 2
    assert "its targets hold only" in capsys.readouterr().err


def test_a_report_of_before_the_model_was_counted_can_be_read(words, run, tmp_path):
    succeed("project", words[0], run, "--sparsity", "50%", "--out", tmp_path / "out")
    path = tmp_path / "out" / "unipruning.json"
    report = json.loads(path.read_text())
    del report["checksum"]
    counted = report["overall"].pop("model")
    path.write_text(json.dumps(sealed(report)))
    assert "model" not in read_report(tmp_path / "out")["overall"]
    for wrong in ({"pruned": 1}, {"weights": ATTENTION - 1}, {"sparsity": 0.5}):
        report["overall"]["model"] = {**counted, **wrong}
        path.write_text(json.dumps(sealed(report)))
        with pytest.raises(CheckpointError, match="is damaged"):
            read_report(tmp_path / "out")


def test_a_run_of_before_there_was_a_choice_can_be_read(run):
    path = run / "run.json"
    written = path.read_bytes()
    record = json.loads(written)
    try:
        for name in ("checksum", "size", "target_patterns"):
            record.pop(name)
        path.write_text(json.dumps(sealed(record)))
        former = Run.open(run)
        assert former.model_weights is None
        assert not former.target_choice
        for name, wrong in (("size", {"weights": 3, "embeddings": 3}), ("target_patterns", {"include": ["re:("]})):
            path.write_text(json.dumps(sealed({**record, name: wrong})))
            with pytest.raises(RunError, match="is damaged"):
                Run.open(run)
    finally:
        path.write_bytes(written)

"""Which matrices are targets when the user says so: --include and --exclude."""

from __future__ import annotations

import json

import pytest
import torch
from _folders import SEARCH, succeed
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.targets import find_targets
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.search.language_loss import LanguageLoss
from unipruning_core.storage.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def opened(mixture, home):
    """The models by name, each with its checkpoint."""
    return {
        name: (AutoModelForCausalLM.from_pretrained(folder), Checkpoint.open(folder))
        for name, folder in (("mixtral", mixture / "model"), ("llama", home / "model"))
    }


def found(opened, name, include=(), exclude=()):
    """The names of the targets, and why each other matrix is dense."""
    layers, left_out = find_targets(*opened[name], TargetChoice.of(include, exclude))
    return [layer.name for layer in layers], {part.name: part.why for part in left_out}


@pytest.mark.parametrize(
    ("name", "include", "exclude", "targets"),
    [
        ("llama", (), "*.down_proj.weight", 12),
        ("llama", (), "*.mlp.down_proj", 12),
        ("llama", (), ("model.layers.0.*", "*.v_proj.weight"), 6),
        ("llama", (), r"re:model\.layers\.\d+\.mlp\..*", 8),
        ("llama", "*.mlp.*", (), 6),
        ("llama", "*.mlp.*", "*.up_proj.weight", 4),
        ("llama", "lm_head", (), 1),
        ("llama", ("lm_head.weight", "*.q_proj.weight"), (), 3),
        ("llama", "*", (), 15),
        # names of the checkpoint, of one expert, of one parameter and of one module
        ("mixtral", "*.experts.*.w2.weight", (), 8),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w?.weight", (), 3),
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", (), 8),
        ("mixtral", (), "*.mlp.experts", 8),
        ("mixtral", (), "*.experts.[02].*", 8 + 12),
        ("mixtral", "*.experts.*", "*.w1", 16),
    ],
)
def test_patterns_choose_by_the_names_of_model_and_checkpoint(opened, name, include, exclude, targets):
    names, left_out = found(opened, name, include, exclude)
    assert len(names) == targets
    assert not set(names) & set(left_out)
    assert set(names) <= set(opened[name][1].tensors)


def test_each_matrix_left_dense_says_which_pattern_did_it(opened):
    _, left_out = found(opened, "mixtral", exclude=("*.experts.3.*", "*.self_attn.*", "model.layers.1.mlp.experts"))
    assert left_out["model.layers.0.block_sparse_moe.experts.3.w1.weight"] == "excluded by --exclude '*.experts.3.*'"
    assert left_out["model.layers.0.self_attn.q_proj.weight"] == "excluded by --exclude '*.self_attn.*'"
    assert left_out["model.layers.1.mlp.experts.down_proj"] == "excluded by --exclude 'model.layers.1.mlp.experts'"
    assert "a router" in left_out["model.layers.0.mlp.gate.weight"]
    _, left_out = found(opened, "llama", include="*.mlp.*")
    assert left_out["model.layers.0.self_attn.q_proj.weight"] == "matches no --include"
    assert left_out["lm_head.weight"] == "matches no --include"


@pytest.mark.parametrize(
    ("include", "exclude", "says"),
    [
        ((), "*.mlp.upproj.weight", "--exclude '*.mlp.upproj.weight' matches no matrix .* 'model.layers.*.mlp.up_proj"),
        ((), "up_proj", "similar names are 'model.layers.*.mlp.up_proj"),
        ((), "*.UP_PROJ.weight", "matches no matrix"),
        ((), ("*.mlp.*", "zzz"), "'zzz' matches no matrix of the model; 'unipruning targets MODEL --all' lists"),
        ("*.experts.*", (), "--include '*.experts.*' matches no matrix"),
        ("model.embed_tokens", (), "no matrix that can be pruned: 'model.embed_tokens.weight' is an embedding"),
        ((), "*", "leave nothing to prune"),
        ("*.mlp.*", "*.layers.*", "leave nothing to prune"),
        ((), "re:(", "'re:(' is not a regular expression"),
        ((), "", "--exclude must be a pattern"),
        ("re:", (), "--include must be a pattern"),
    ],
)
def test_a_pattern_without_effect_is_refused_with_what_may_have_been_meant(opened, include, exclude, says):
    with pytest.raises(ConfigError) as raised:
        found(opened, "llama", include, exclude)
    for part in says.split(" .* "):
        assert part in str(raised.value)


def test_an_output_layer_tied_to_the_embedding_cannot_be_included(mixture):
    model = AutoModelForCausalLM.from_pretrained(mixture / "model")
    model.lm_head.weight = model.model.embed_tokens.weight
    with pytest.raises(ConfigError, match=r"can be pruned: 'lm_head\.weight' is tied to an embedding"):
        find_targets(model, Checkpoint.open(mixture / "model"), TargetChoice(include=("lm_head",)))
    layers, left_out = find_targets(
        model, Checkpoint.open(mixture / "model"), TargetChoice(include=(r"re:lm_head|.*\.w1",))
    )
    assert len(layers) == 8
    assert "tied to an embedding" in {part.why for part in left_out}


def test_a_search_records_its_choice_and_is_resumed_and_used_with_no_other(mixture, tmp_path, capsys):
    words = [
        "prune",
        mixture / "model",
        "--data",
        mixture / "text.txt",
        *SEARCH,
        "--mode",
        "frozen",
        "--backend",
        "cpu",
    ]
    words += ["--sparsity", "50%", "--out", tmp_path / "out"]
    succeed(*words, "--exclude", "*.experts.3.*", "--exclude", "*.self_attn.*")
    record = json.loads((tmp_path / "out-run" / "run.json").read_text())
    assert record["target_patterns"] == {"include": [], "exclude": ["*.experts.3.*", "*.self_attn.*"]}
    names = [target.name for target in read_masks(tmp_path / "out", False).targets]
    assert names == [entry["name"] for entry in record["targets"]]
    assert len(names) == 2 * 3 * 3
    report = json.loads((tmp_path / "out" / "unipruning.json").read_text())
    assert report["provenance"]["target_patterns"] == record["target_patterns"]
    again = [str(word) for word in words[:-1]] + [str(tmp_path / "more"), "--run", str(tmp_path / "out-run")]
    assert main(again) == 2
    assert "differs in its target_patterns" in capsys.readouterr().err
    succeed(*again, "--exclude", "*.experts.3.*", "--exclude", "*.self_attn.*")


def test_a_wrong_pattern_costs_one_sentence_before_the_model_is_loaded(mixture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unipruning_core.jobs.opened.load_model", None)
    words = ["search", str(mixture / "model"), "--data", str(mixture / "text.txt"), *SEARCH, "--backend", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run"), "--exclude", "*.w4.weight"]) == 2
    error = capsys.readouterr().err
    assert "error: --exclude '*.w4.weight' matches no matrix of the model; similar names are" in error
    assert "experts.*.w1.weight'" in error


def test_a_model_in_memory_takes_the_same_choice(opened, mixture):
    model = AutoModelForCausalLM.from_pretrained(mixture / "model")
    ids = {"data": [" ".join(f"word{number % 30}" for number in range(200))], "samples": 2, "seq_len": 16}
    tokenizer = AutoTokenizer.from_pretrained(mixture / "model")
    chosen = {"include": ["lm_head", "*.self_attn.*"], "exclude": "*.v_proj"}
    scores = unipruning.search(model, tokenizer, mode="frozen", progress=False, **ids, **chosen)
    masks = unipruning.project(model, scores, sparsity="50%", progress=False)
    assert len(masks) == 7
    assert int((model.lm_head.weight == 0).sum()) == 48 * 32 // 2


def test_sparsegpt_prunes_a_choice_inside_the_blocks_only(mixture, tmp_path, capsys):
    words = ["compare-sparsegpt", mixture / "model", "--data", mixture / "text.txt", "--samples", 3, "--seq-len", 16]
    words += ["--sparsity", "50%", "--backend", "cpu"]
    succeed(*words, "--out", tmp_path / "out", "--include", "*.self_attn.*")
    assert len(read_masks(tmp_path / "out", False).targets) == 8
    wrong = [str(word) for word in (*words, "--out", tmp_path / "wrong", "--include", "lm_head")]
    assert main(wrong) == 2
    assert "'lm_head.weight' is in none" in capsys.readouterr().err


def test_a_target_after_the_decoder_gets_its_gradient_from_all_tokens_at_once(opened, monkeypatch):
    monkeypatch.setattr("unipruning_core.search.language_loss.LOGITS", 1)
    notes = []
    loss = LanguageLoss(opened["llama"][0], ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
    loss.compare(torch.zeros(1, 8, dtype=torch.int64), notes.append)
    assert loss.agrees is False
    assert notes == ["the logits of a sample are in memory all at once, since 'lm_head.weight' is a target"]

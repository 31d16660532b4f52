"""The command targets: what would be pruned, from a config or a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from _checkpoints import save_llama
from _mixtures import LAYOUTS, save_mixture
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig

from unipruning_core.cli.main import main
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.outline import outline
from unipruning_core.models.targets import find_targets
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.listing import listing


def listed(capsys, *words):
    assert main(["targets", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_alone_gives_the_names_of_the_checkpoint(layout, tmp_path):
    folder = save_mixture(tmp_path / "m", layout)
    layers, _ = find_targets(AutoModelForCausalLM.from_pretrained(folder), Checkpoint.open(folder))
    wanted = [layer.target for layer in layers]
    assert list(outline(str(folder), headers=True).targets) == wanted
    assert set(outline(str(folder / "config.json")).targets) == set(wanted)


@pytest.mark.parametrize("choice", [{}, {"exclude": ("*.1.*",)}, {"include": ("lm_head", "*.experts*")}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_is_listed_once(layout, choice, tmp_path):
    folder = save_mixture(tmp_path / "m", layout)
    found = outline(str(folder), choice=TargetChoice(**choice), headers=True)
    for one in (listing(found), listing(found, each=True)):
        assert sum(group.weights for group in (*one.targets, *one.dense)) == found.parameters
        assert (one.pruned, one.matrices) == (found.weights, len(found.targets))
    assert found.parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert len(listing(found).targets) < len(found.targets) == len(listing(found, each=True).targets)


def test_a_line_is_a_pattern_that_chooses_what_it_stands_for(mixture, capsys):
    by_role = listed(capsys, mixture / "model")
    for group in by_role["targets"]:
        chosen = listed(capsys, mixture / "model", "--include", group["name"])
        assert chosen["targets"] == [group]
        assert chosen["target_weights"] == group["weights"]
    assert by_role["target_fraction"] == by_role["target_weights"] / by_role["weights"]
    assert by_role["target_fraction_outside_embeddings"] > 0.95


def test_the_table_says_what_is_pruned_and_why_the_rest_is_not(mixture, capsys):
    assert main(["targets", str(mixture / "model"), "--exclude", "*.experts.*.w2"]) == 0
    printed = capsys.readouterr().out
    assert "30.11 k weights, 27.04 k of them outside embeddings" in printed
    assert "pruned: 24 matrices with 20.48 k weights, 68.0% of the model, 75.7% outside embeddings" in printed
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "8 24 x 32 6.14 k 20.40% model.layers.*.block_sparse_moe.experts.*.w1.weight" in lines
    dense = "2 4 x 32 x 24 6.14 k 20.40% model.layers.*.mlp.experts.down_proj"
    assert f"{dense} (excluded by --exclude '*.experts.*.w2')" in lines
    router = "2 4 x 32 256 0.85% model.layers.*.mlp.gate.weight"
    assert f"{router} (a router: its outputs choose among experts, or weigh them)" in lines
    assert "160 0.53% vectors (norms, biases and the like)" in lines
    assert main(["targets", str(mixture / "model"), "--all"]) == 0
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight\n" in capsys.readouterr().out


def test_a_weight_with_two_names_counts_under_the_first(tmp_path, capsys):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=48, tie_word_embeddings=True, **sizes)).save_pretrained(tmp_path / "m")
    dense = {group["name"]: group for group in listed(capsys, tmp_path / "m")["dense"]}
    assert dense["model.embed_tokens.weight"]["weights"] == 48 * 16
    assert dense["lm_head.weight"]["weights"] == 0
    assert dense["lm_head.weight"]["why"] == "the same weights as model.embed_tokens.weight"


def test_a_mixture_of_46_billion_weights_is_listed_from_its_config(tmp_path, capsys):
    MixtralConfig(dtype="bfloat16").save_pretrained(tmp_path)
    found = listed(capsys, tmp_path / "config.json")
    assert found["dtype"] == "bfloat16"
    assert found["weights"] == 46_702_792_704
    assert found["target_matrices"] == 32 * (4 + 8 * 3)
    assert found["target_fraction_outside_embeddings"] > 0.999
    assert {"name": "model.layers.*.block_sparse_moe.experts.*.w1.weight", "matrices": 256} in [
        {"name": group["name"], "matrices": group["matrices"]} for group in found["targets"]
    ]


def test_the_headers_of_a_folder_are_compared_with_its_config(tmp_path, capsys):
    folder = save_llama(tmp_path / "m", dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    assert main(["targets", str(folder)]) == 2
    assert "is (40, 24) in the checkpoint but (48, 24) in the model" in capsys.readouterr().err

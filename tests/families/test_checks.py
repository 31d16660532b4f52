"""The checks of pruned families see what they are for, planted one by one."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipruning_core.cli.main import main

TARGET = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The folder with ``model`` and its pruned ``2-4``."""
    from _making import CAUSAL, Family, make, save_text

    folder = tmp_path_factory.mktemp("checks")
    make(Family("llama", CAUSAL), folder / "model")
    save_text(folder / "text.jsonl")
    data = ["--data", str(folder / "text.jsonl"), "--samples", "1", "--seq-len", "32", "--backend", "cpu"]
    assert main(["search", str(folder / "model"), "--out", str(folder / "run"), "--mode", "frozen", *data]) == 0
    words = [str(folder / "model"), str(folder / "run"), "--sparsity", "2:4", "--out", str(folder / "2-4")]
    assert main(["project", *words, "--backend", "cpu"]) == 0
    return folder


def _other_value(weight, original):
    weight[weight != 0] *= 2


def _one_more_zero(weight, original):
    weight[0, weight[0].nonzero()[0]] = 0


def _moved(weight, original):
    """Keep the other two weights of the first group."""
    weight[0, :4] = original[0, :4] * (weight[0, :4] == 0)


def test_what_is_right_passes(pruned):
    assert _said(pruned / "2-4", pruned) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_other_value, "holds values of its own"),
        (_one_more_zero, "is not the original under its mask"),
        (_moved, "is not the original under its mask"),
    ],
)
def test_a_wrong_weight_is_seen(pruned, tmp_path, damage, said):
    output = tmp_path / "output"
    shutil.copytree(pruned / "2-4", output)
    tensors = load_file(output / "model.safetensors")
    damage(tensors[TARGET], load_file(pruned / "model" / "model.safetensors")[TARGET])
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    assert said in _said(output, pruned)


def test_another_file_is_seen(pruned, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(pruned / "2-4", output)
    (output / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is not that of the original" in _said(output, pruned)


def test_a_model_that_transformers_loads_otherwise_is_seen(pruned):
    assert "weights are zero in memory" in _said(pruned / "2-4", pruned, loaded=pruned / "model")


def test_logits_of_another_model_are_seen(pruned):
    def rotate(model):
        model.model.rotary_emb.inv_freq *= 2

    assert "logits differ" in _said(pruned / "2-4", pruned, change=rotate)


@pytest.mark.parametrize(
    ("name", "shape", "inputs"),
    [
        ("mlp.experts.gate_up_proj", (8, 192, 64), 64),  # mixtral
        ("mlp.experts.down_proj", (8, 64, 96), 96),
        ("mlp.experts.gate_up_proj", (8, 64, 192), 64),  # gpt_oss
        ("mlp.experts.down_proj", (8, 96, 64), 96),
        ("ffn.experts.mlp.w1", (384, 64), 64),  # dbrx
        ("ffn.experts.mlp.w2", (384, 64), 96),
    ],
)
def test_the_inputs_of_experts_are_found(name, shape, inputs):
    from _checks import expert_rows

    assert expert_rows(name, torch.ones(shape, dtype=torch.bool)).shape[1] == inputs


def _said(output, folder, loaded=None, change=None):
    """Return what the checks say of an output, None if nothing."""
    from _checks import CheckError, Runs, check
    from transformers import AutoModelForCausalLM

    def load(path):
        model = AutoModelForCausalLM.from_pretrained(loaded if loaded and path == output else path).eval()
        if change and path == output:
            change(model)
        return model

    try:
        check(output, folder / "model", "2-4", load, Runs())
    except CheckError as error:
        return str(error)
    return None

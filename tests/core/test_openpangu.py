"""openPangu: a checkpoint of its layout, whose code comes with it, is searched and pruned like any other.

The layout is what its published config and index of tensors say: the names of classes and files, biases on the four
attention projections, grouped queries, an untied head, and a tensor of rotary frequencies in each block that belongs to
no parameter.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from _checkpoints import content, save_text, save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from unipruning_core.cli.main import main
from unipruning_core.models.outline import load_config, outline
from unipruning_core.projection.mask_file import read_masks

CODE = Path(__file__).parent / "openpangu"
CONFIGURATION = "configuration_openpangu_dense.py"
MODELING = "modeling_openpangu_dense.py"
PUBLISHED = {
    "architectures": ["PanguEmbeddedForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_openpangu_dense.PanguEmbeddedConfig",
        "AutoModel": "modeling_openpangu_dense.PanguEmbeddedModel",
        "AutoModelForCausalLM": "modeling_openpangu_dense.PanguEmbeddedForCausalLM",
    },
    "model_type": "PanguEmbedded",
    "bias": True,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "eos_token_id": 45892,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 34,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 16000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 153376,
}
SMALL = {
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "vocab_size": 48,
}
# how a copy is given to transformers' own Llama instead of the code that comes with it
AS_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True}
TRUST = "--trust-remote-code"


def write_config(folder: Path, **changed: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **changed}))
    for path in CODE.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """transformers copies a checkpoint's code into a cache of the user's before it imports it; here into a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A small checkpoint with random weights, in ``model``, and a text."""
    folder = tmp_path_factory.mktemp("openpangu")
    model = write_config(folder / "model", **SMALL)
    torch.manual_seed(7)
    config = AutoConfig.from_pretrained(model, trust_remote_code=True)
    built = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    tensors = {name: torch.randn_like(tensor) / 4 for name, tensor in built.state_dict().items()}
    for block in range(SMALL["num_hidden_layers"]):
        tensors[f"model.layers.{block}.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    save_tokenizer(model)
    save_text(folder / "text.txt")
    return folder


def as_llama(home: Path, copy: Path) -> Path:
    shutil.copytree(home / "model", copy)
    config = {**json.loads((copy / "config.json").read_text()), **AS_LLAMA}
    del config["auto_map"], config["bias"]
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def with_code(home: Path, copy: Path, modeling: str) -> Path:
    shutil.copytree(home / "model", copy)
    (copy / MODELING).write_text(modeling)
    # in one process transformers takes the model that an equal config was loaded with before
    with (copy / CONFIGURATION).open("a") as file:
        file.write(f"# of {copy}\n")
    return copy


def prune(home: Path, out: Path, *argv: str, model: Path | None = None) -> int:
    data = ["--data", str(home / "text.txt"), "--samples", "3", "--seq-len", "16"]
    return main(["prune", str(model or home / "model"), *data, "--out", str(out), *argv])


@pytest.mark.parametrize("mode", ["frozen", "drift", "feedback", "coupled"])
def test_every_mode_prunes_it_through_its_own_code(home, tmp_path, mode):
    assert prune(home, tmp_path / "out", "--mode", mode, "--sparsity", "60%/matrix", "--sparsity", "2:4", TRUST) == 0
    before = load_file(home / "model" / "model.safetensors")
    for slug, kept in (("60", 0.4), ("2-4", 0.5)):
        after = load_file(tmp_path / "out" / slug / "model.safetensors")
        assert set(after) == set(before)
        pruned = {name for name in before if not torch.equal(before[name], after[name])}
        assert pruned == {name for name in before if "_proj.weight" in name}
        for name in pruned:
            assert after[name].count_nonzero() == round(kept * after[name].numel())
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / slug, trust_remote_code=True)
        assert type(model).__name__ == "PanguEmbeddedForCausalLM"
        assert torch.isfinite(model(torch.arange(3, 19)[None]).logits).all()


@pytest.mark.parametrize("mode", ["frozen", "feedback"])
def test_transformers_own_llama_gives_the_same_masks(home, tmp_path, mode):
    assert prune(home, tmp_path / "own", "--mode", mode, "--sparsity", "60%/matrix", TRUST) == 0
    assert (
        prune(home, tmp_path / "as", "--mode", mode, "--sparsity", "60%/matrix", model=as_llama(home, tmp_path / "m"))
        == 0
    )
    own, llama = content(tmp_path / "own"), content(tmp_path / "as")
    for name in ("model.safetensors", "unipruning.masks"):
        assert own[name] == llama[name]


def test_its_code_is_not_run_unless_trusted(home, tmp_path, capsys):
    assert prune(home, tmp_path / "out", "--sparsity", "60%/matrix") == 2
    assert "pass --trust-remote-code if you trust its code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("import torch_npu_that_is_not_here", "torch_npu_that_is_not_here"),
        ("from transformers.utils import LossKwargs", "LossKwargs"),
        ("import torch\ntorch.accelerator.set_device_index(3)", "ccelerator"),
    ],
    ids=["another package", "another transformers", "another device"],
)
def test_code_that_cannot_run_here_costs_one_sentence(home, tmp_path, capsys, line, says):
    model = with_code(home, tmp_path / "model", f"{line}\n{(CODE / MODELING).read_text()}")
    assert prune(home, tmp_path / "out", "--sparsity", "60%/matrix", TRUST, model=model) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: model")
    assert says in error


@pytest.mark.parametrize("mode", ["drift", "feedback", "coupled"])
def test_attention_without_a_backward_stays_dense_where_the_loss_is_followed(home, tmp_path, capsys, mode):
    code = (CODE / MODELING).read_text().replace("ATTENTION = False", "ATTENTION = True")
    model = with_code(home, tmp_path / "model", code)
    assert prune(home, tmp_path / "out", "--mode", mode, "--sparsity", "60%/matrix", TRUST, model=model) == 0
    error = capsys.readouterr().err
    assert "6 target layers saw tokens but got no gradient" in error
    assert "--mode frozen prunes them" in error
    assert "k_proj.weight and 5 more (the loss of the calibration does not depend on it)" in error
    frozen = tmp_path / "frozen"
    assert prune(home, frozen, "--mode", "frozen", "--sparsity", "60%/matrix", TRUST, model=model) == 0
    names = [{target.name for target in read_masks(out, False).targets} for out in (tmp_path / "out", frozen)]
    assert {name.rpartition(".self_attn.")[2] for name in names[1] - names[0]} == {
        f"{kind}_proj.weight" for kind in "qkv"
    }


def test_the_built_in_shapes_are_those_of_the_published_config(tmp_path):
    published = outline(str(write_config(tmp_path / "published")), trust_remote_code=True)
    built_in = outline("openpangu-7b")
    assert built_in.shapes() == published.shapes()
    assert [target.shape for target in built_in.targets] == [target.shape for target in published.targets]
    assert (built_in.parameters, built_in.weights, built_in.dtype) == (
        published.parameters,
        published.weights,
        published.dtype,
    )
    ours, theirs = load_config("openpangu-7b"), published.config
    for name in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "attention_bias"):
        assert getattr(ours, name) == getattr(theirs, name)

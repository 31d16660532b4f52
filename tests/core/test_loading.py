"""Loading a model: in the dtype that was requested, and one sentence for each way a checkpoint can be damaged."""

import json

import pytest
import torch
from _checkpoints import save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from unipruning_core.errors import CheckpointError
from unipruning_core.models.loading import ModelChoice, load_config_and_tokenizer, load_model
from unipruning_core.storage.checkpoint import Checkpoint


def make_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, tie_word_embeddings=True, **sizes))


@pytest.fixture
def checkpoint(tmp_path):
    """A model whose head is its embedding, which a checkpoint holds once, with its tokenizer."""
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_saved_checkpoint_is_loaded_in_the_precision_asked_for_without_a_word(checkpoint, capfd, dtype):
    model, tokenizer = load_model(checkpoint, dtype, "cpu"), AutoTokenizer.from_pretrained(checkpoint)
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    wanted = make_model().to(dtype).state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.state_dict().items())
    assert tokenizer("word3 word1")["input_ids"] == [4, 2]


def remove_config(folder):
    (folder / "config.json").unlink()


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def remove_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_a_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_a_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def bring_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_config, "is not a model folder: it has no config.json"),
        (remove_weights, "has neither model.safetensors nor"),
        (truncate_weights, "are damaged: the header describes"),
        (
            drop_a_weight,
            r"lacks 1 of the weights that its config requires \(first: 'model.layers.1.mlp.up_proj.weight'\)",
        ),
        (change_a_shape, r"'model.norm.weight' is \(7,\) in the checkpoint but \(16,\) by its config"),
        (bring_code, "cannot be loaded: .* contains custom code"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.usefixtures("offline")
def test_a_damaged_checkpoint_is_refused_in_one_sentence(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(checkpoint, torch.float32, "cpu")
    assert str(checkpoint) in str(caught.value) or damage is change_a_shape
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_checkpoint_without_a_tokenizer_is_refused_before_its_weights_are_loaded(checkpoint):
    remove_tokenizer(checkpoint)
    with pytest.raises(CheckpointError, match=r" has no tokenizer files, such as tokenizer\.json; ") as caught:
        load_config_and_tokenizer(Checkpoint.open(checkpoint), ModelChoice(str(checkpoint)))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_folder_that_does_not_exist_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="missing' is not a model folder"):
        load_model(tmp_path / "missing", torch.float32, "cpu")


@pytest.fixture
def offline(monkeypatch):
    """Keep the tests from waiting for a hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

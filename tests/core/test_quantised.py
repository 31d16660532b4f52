"""Quantised checkpoints that cannot be pruned as they are stored: refused in one sentence, before a text is read."""

import json

import pytest
import torch
from _checkpoints import save_llama, save_text, save_tokenizer
from _quantised import as_bitmask, as_bitsandbytes, as_gptq, as_mxfp4, as_packed, save_gpt_oss

import unipruning
from unipruning_core.errors import CheckpointError
from unipruning_core.models.loading import load_model
from unipruning_core.models.outline import outline
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.quantised import block_of, method_of, packed_layout, without_sections

PASS_THE_ORIGINAL = "pass the model that it was made from"
DEQUANTIZE = r"write it in bfloat16 with 'unipruning dequantize .* --out DIR'"
REFUSED = {
    "GPTQ or AWQ": (as_gptq, PASS_THE_ORIGINAL),
    "bitsandbytes": (as_bitsandbytes, PASS_THE_ORIGINAL),
    "packed codes": (as_packed, DEQUANTIZE),
    "sparse bitmask": (as_bitmask, DEQUANTIZE),
}


@pytest.mark.parametrize("layout", REFUSED)
@pytest.mark.parametrize("job", ["search", "prune"])
def test_the_layout_is_named_before_a_text_is_read(layout, job, tmp_path, monkeypatch):
    change, remedy = REFUSED[layout]
    change(save_llama(tmp_path / "model"))
    save_tokenizer(tmp_path / "model")
    save_text(tmp_path / "text.txt")
    monkeypatch.delattr("unipruning_core.data.text.TextChoice.load")
    asked = {"out": tmp_path / "out", "data": str(tmp_path / "text.txt"), "progress": False}
    with pytest.raises(CheckpointError, match=f"{layout}.*{remedy}"):
        getattr(unipruning, job)(str(tmp_path / "model"), **asked, **({"sparsity": "50%"} if job == "prune" else {}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layout", "said"), [(as_gptq, "GPTQ or AWQ"), (as_bitmask, "sparse bitmask")])
def test_a_model_with_other_weights_is_neither_listed_nor_loaded(layout, said, tmp_path):
    folder = layout(save_llama(tmp_path))
    with pytest.raises(CheckpointError, match=said):
        outline(str(folder), headers=True)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder, torch.float32, "cpu")


def test_experts_in_mxfp4_are_not_left_dense_without_a_word(tmp_path):
    folder = as_mxfp4(save_gpt_oss(tmp_path / "model"))
    with pytest.raises(CheckpointError, match=f"MXFP4.*{DEQUANTIZE}"):
        Checkpoint.open(folder).codes.check_prunable()


def test_a_folder_of_gguf_files_is_not_told_to_save_again(tmp_path):
    save_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-Q4_K_M.gguf")
    with pytest.raises(CheckpointError, match=r"GGUF \('model-Q4_K_M.gguf'\).*pass the model"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"quant_method": "gptq"}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "quanto"}, "quanto"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, None),
        ({"quant_method": 8}, None),
        ({}, None),
    ],
)
def test_the_method_is_told_by_the_config_of_any_part(section, method):
    assert method_of({"quantization_config": section}, []) == method
    assert method_of({"text_config": {"quantization_config": section}}, []) == method


def test_a_plan_of_a_model_that_cannot_be_searched_is_refused(tmp_path):
    save_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(CheckpointError, match="quantised by AWQ"):
        outline(str(tmp_path))


@pytest.mark.parametrize(
    ("section", "block"),
    [
        ({"weight_block_size": [128, 64]}, (128, 64)),
        ({"config_groups": {"group_0": {"weights": {"block_structure": [32, 16]}}}}, (32, 16)),
        ({"weight_block_size": None, "config_groups": {"group_0": {"weights": None}}}, None),
        ({"weight_block_size": [0, 1]}, None),
        ({"config_groups": "x"}, None),
    ],
)
def test_the_sides_of_a_block_are_read_from_the_config(section, block):
    assert block_of({"quantization_config": section}) == block


def test_a_layout_needs_all_its_tensors():
    assert packed_layout(["a.bitmask", "a.compressed", "b.shape"]) is None
    assert packed_layout(["a.bitmask", "a.compressed", "a.shape"]) == "compressed-tensors (sparse bitmask)"
    assert (
        packed_layout(["a.weight", "a.weight_zero_point", "a.weight_scale"]) == "codes of eight bits with zero points"
    )


def test_what_is_said_of_quantisation_is_taken_out_of_every_part():
    config = {"a": 1, "quantization_config": {}, "text_config": {"b": 2, "compression_config": {"c": 3}}}
    assert without_sections(config) == {"a": 1, "text_config": {"b": 2}}

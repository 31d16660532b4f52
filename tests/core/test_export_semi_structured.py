"""2:4 as torch packs it: the way back gives every weight, and the loader the model, on a device that takes part."""

from __future__ import annotations

import json

import pytest
import torch
from _checkpoints import save_gpt2
from _exported import VOCABULARY, pruned_of, save_model
from safetensors.torch import load_file
from torch.sparse import _semi_structured_conversions as conversions

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.semi_structured import FILE

IDS = torch.arange(24)[None] * 7 % VOCABULARY


def export(pruned, out):
    return unipruning.export(pruned, out, "semi-structured", progress=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparsity", ["2:4", "1:4"])
def test_every_weight_is_made_again(dtype, sparsity, tmp_path):
    pruned = pruned_of(save_model(tmp_path / "model", dtype=dtype), tmp_path / "pruned", sparsity)
    done = export(pruned, tmp_path / "out")
    assert done.details == {"packed": 14, "dense": []}
    there, packed = load_file(tmp_path / "out" / FILE), unipruning.read_masks(pruned).targets
    for name, weight in load_file(pruned / "model.safetensors").items():
        if name in {target.name for target in packed}:
            values, meta = there.pop(f"{name}.values"), there.pop(f"{name}.meta")
            assert values.nbytes + meta.nbytes == weight.nbytes * 9 // 16
            back = conversions.sparse_semi_structured_to_dense_cutlass(values, meta)
            assert torch.equal(back, weight), name
        else:
            assert torch.equal(there.pop(name), weight)
    assert not there


def test_a_matrix_that_does_not_fit_stays_dense_and_is_named(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"default": "50%", "sparsity": {"*.1.*": "2:4"}}))
    pruned = pruned_of(save_model(tmp_path / "model"), tmp_path / "pruned", f"@{tmp_path / 'b.json'}")
    done = export(pruned, tmp_path / "out")
    assert done.details["packed"] == 7
    assert all(".layers.0." in name for name in done.details["dense"])
    assert len(done.details["dense"]) == 7
    there = load_file(tmp_path / "out" / FILE)
    assert torch.equal(there[name := done.details["dense"][0]], load_file(pruned / "model.safetensors")[name])


@pytest.mark.parametrize("fault", ["float32", "sides", "transposed", "60%"])
def test_a_checkpoint_without_a_matrix_that_fits_is_refused(fault, tmp_path):
    sparsity = "60%" if fault == "60%" else "2:4"
    if fault == "transposed":
        folder = save_gpt2(tmp_path / "model")
    else:
        dtype = torch.float32 if fault == "float32" else torch.bfloat16
        folder = save_model(tmp_path / "model", dtype=dtype, hidden=48 if fault == "sides" else 64)
    pruned = pruned_of(folder, tmp_path / "pruned", sparsity)
    with pytest.raises(ConfigError, match=r"no matrix of .* at most 2 of every 4 .*; project with --sparsity 2:4"):
        export(pruned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_loader_gives_the_model_that_was_pruned(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    pruned = pruned_of(save_model(tmp_path / "model", tie_word_embeddings=True), tmp_path / "pruned")
    export(pruned, tmp_path / "out")
    given = []

    def halved(weight):
        given.append(weight)
        return weight.clone()

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", halved)
    model = unipruning.load_semi_structured(tmp_path / "out", "cpu", progress=False)
    assert len(given) == 14
    assert all(((weight.view(-1, 4) != 0).sum(1) <= 2).all() for weight in given)
    dense = AutoModelForCausalLM.from_pretrained(pruned)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, dense(IDS).logits)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_shards_become_one_file_without_an_index(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = save_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()
    export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name in names if "model" in name or FILE in name} == {FILE}


def test_a_device_without_2_4_is_refused(tmp_path):
    export(pruned_of(save_model(tmp_path / "model"), tmp_path / "pruned"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'cpu' cannot compute with 2:4: .*; use a GPU that can"):
        unipruning.load_semi_structured(tmp_path / "out", "cpu", progress=False)


def test_what_was_not_exported_is_not_loaded(tmp_path):
    pruned = pruned_of(save_model(tmp_path / "model"), tmp_path / "pruned")
    with pytest.raises(CheckpointError, match=f"has no {FILE}; pass a folder that 'unipruning export --to semi-struct"):
        unipruning.load_semi_structured(pruned, "cpu")
    export(pruned, tmp_path / "out")
    path = tmp_path / "out" / FILE
    path.write_bytes(path.read_bytes().replace(b'semi-structured-1"', b'semi-structured-9"'))
    with pytest.raises(CheckpointError, match="is damaged: its format is 'unipruning-semi-structured-9', not"):
        unipruning.load_semi_structured(tmp_path / "out", "cpu")


def test_a_release_of_torch_without_the_packer_is_named(tmp_path, monkeypatch, refused):
    pruned = pruned_of(save_model(tmp_path / "model"), tmp_path / "pruned")
    monkeypatch.delattr(conversions, "sparse_semi_structured_from_dense_cutlass")
    words = ["export", pruned, "--to", "semi-structured", "--out", tmp_path / "out"]
    assert f"torch {torch.__version__} has no packer of 2:4 in Python; use a release" in refused(*words)
    monkeypatch.undo()
    assert main([str(word) for word in words]) == 0

"""Quantised checkpoints written in bfloat16: the numbers, the config, the files, and what is refused."""

import json

import pytest
import torch
from _checkpoints import changed, save_llama, save_text, save_tokenizer
from _quantised import as_bitmask, as_fp8, as_gptq, as_mxfp4, as_packed, as_rows, packed_rows, save_gpt_oss
from transformers import AutoModelForCausalLM

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.packed import FP4, plain_tensors

NAME = "model.layers.1.mlp.up_proj.weight"


def written(folder, out):
    assert main(["dequantize", str(folder), "--out", str(out)]) == 0
    return Checkpoint.open(out)


def sparse(tensors):
    for name, tensor in tensors.items():
        if "_proj" in name:
            tensor[:, ::3] = 0
            tensor[1] = 0


def test_a_sparse_bitmask_is_unpacked_exactly(tmp_path):
    original = changed(save_llama(tmp_path / "original"), sparse)
    folder = as_bitmask(changed(save_llama(tmp_path / "model"), sparse))
    expected, found = Checkpoint.open(original), written(folder, tmp_path / "out")
    assert set(found.tensors) == set(expected.tensors)
    assert all(torch.equal(found.read(name), expected.read(name)) for name in expected.tensors)
    config, before = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "out", original))
    assert config == before
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [False, True])
def test_packed_codes_come_within_half_a_step_of_the_original(bits, zero_points, tmp_path):
    expected = Checkpoint.open(save_llama(tmp_path / "original"))
    folder = as_packed(save_llama(tmp_path / "model"), bits, zero_points=zero_points)
    found = written(folder, tmp_path / "out")
    assert {name: info.shape for name, info in found.tensors.items()} == {
        name: info.shape for name, info in expected.tensors.items()
    }
    step = Checkpoint.open(folder).read(f"{NAME}_scale").float().repeat_interleave(8, 1)
    # a shifted code is cut at the end of its range, a bfloat16 is rounded once more
    allowed = step * (1.6 if zero_points else 0.51) + expected.read(NAME).abs().float() * 2**-7
    assert bool(((found.read(NAME).float() - expected.read(NAME).float()).abs() <= allowed).all())


def test_columns_that_name_their_groups_take_the_scales_of_those(tmp_path):
    folder = as_packed(save_llama(tmp_path / "model"))
    order = torch.arange(24).flip(0) // 8
    changed(folder, lambda tensors: tensors.update({f"{NAME}_g_idx": order.int()}))
    codes, scales = torch.arange(-8, 8).repeat(60).view(40, 24), torch.rand(40, 3).bfloat16()
    changed(
        folder, lambda tensors: tensors.update({f"{NAME}_packed": packed_rows(codes + 8, 4), f"{NAME}_scale": scales})
    )
    expected = (codes * scales.float()[:, order]).bfloat16()
    assert torch.equal(written(folder, tmp_path / "out").read(NAME), expected)


def test_experts_in_mxfp4_are_written_as_the_library_reads_them(tmp_path):
    folder = as_mxfp4(save_gpt_oss(tmp_path / "model"))
    checkpoint, found = Checkpoint.open(folder), written(folder, tmp_path / "out")
    name = "model.layers.1.mlp.experts.down_proj"
    blocks, scales = checkpoint.read(f"{name}_blocks"), checkpoint.read(f"{name}_scales")
    values = found.read(name)
    assert values.shape == (4, 64, 32)
    assert values[2, 37, 5] == FP4[blocks[2, 5, 1, 2] >> 4] * 2.0 ** (int(scales[2, 5, 1]) - 127)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_codes_with_zero_points_are_read(tmp_path):
    folder = as_rows(save_llama(tmp_path / "model"), torch.int8, 100.0)
    zeros = torch.arange(40).sub(20).to(torch.int8).view(40, 1)
    changed(folder, lambda tensors: tensors.update({f"{NAME}_zero_point": zeros}))
    checkpoint = Checkpoint.open(folder)
    expected = (checkpoint.read(NAME).float() - zeros.float()) * checkpoint.read(f"{NAME}_scale").float()
    assert torch.equal(written(folder, tmp_path / "out").read(NAME), expected.bfloat16())


def test_scales_and_what_belongs_to_activations_are_left_out(tmp_path):
    plain = {tensor.name for tensor in plain_tensors(Checkpoint.open(as_rows(save_llama(tmp_path / "a"))))}
    assert plain == set(Checkpoint.open(save_llama(tmp_path / "b")).tensors)


def test_the_copy_is_searched_and_pruned(tmp_path):
    save_tokenizer(as_packed(save_llama(tmp_path / "model")))
    save_text(tmp_path / "text.txt")
    written(tmp_path / "model", tmp_path / "plain")
    options = {"data": str(tmp_path / "text.txt"), "samples": 4, "seq_len": 16, "progress": False}
    (result,) = unipruning.prune(
        str(tmp_path / "plain"), sparsity="2:4", out=tmp_path / "out", mode="frozen", **options
    )
    assert result.pruned * 2 == result.total


@pytest.mark.parametrize("job", ["prune", "search"])
def test_a_search_dequantizes_first_and_then_takes_what_is_there(job, tmp_path, capsys):
    save_tokenizer(as_bitmask(save_llama(tmp_path / "model")))
    save_text(tmp_path / "text.txt")
    plain, out = tmp_path / "plain", tmp_path / "out"
    words = [job, str(tmp_path / "model"), "--dequantize", str(plain), "--out", str(out), "--mode", "frozen"]
    words += ["--data", str(tmp_path / "text.txt"), "--samples", "4", "--seq-len", "16", "--overwrite"]
    words += ["--sparsity", "2:4"] if job == "prune" else []
    assert main(words) == 0
    assert f"project {plain} " in capsys.readouterr().out
    made = (plain / "config.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (plain / "config.json").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: folder, "is not quantised"),
        (as_gptq, "quantised by GPTQ or AWQ"),
        (lambda folder: as_packed(folder, bits=2), "only codes of 4 and 8 bits"),
    ],
)
def test_what_cannot_be_read_is_said_and_nothing_is_left(change, said, tmp_path, capsys):
    change(save_llama(tmp_path / "model"))
    assert main(["dequantize", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_output_that_exists_or_lies_in_the_model_is_refused(tmp_path, capsys):
    folder = as_fp8(save_llama(tmp_path / "model"))
    for out, said in ((tmp_path, "exists"), (folder / "out", "model")):
        assert main(["dequantize", str(folder), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err


def test_bits_that_do_not_belong_to_the_values_are_refused(tmp_path):
    folder = as_bitmask(save_llama(tmp_path / "model"))
    changed(folder, lambda tensors: tensors.update({f"{NAME}.bitmask": torch.zeros(40, 3, dtype=torch.uint8)}))
    (tensor,) = [tensor for tensor in plain_tensors(Checkpoint.open(folder)) if tensor.name == NAME]
    with pytest.raises(CheckpointError, match="with 0 set"):
        tensor.read()

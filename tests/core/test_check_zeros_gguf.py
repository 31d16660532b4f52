"""Zeros of a GGUF file: names, types, the order of rows of the converter, stacks of experts, and damage."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
import torch
from _checkpoints import FakeScores, parsed, save_gpt2, targets_of
from _drawn import places, quick
from hypothesis import given
from hypothesis import strategies as st

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.zeros.check import check_zeros
from unipruning_cpu.backend import CpuBackend

gguf = pytest.importorskip("gguf")
HEADS, KEY_HEADS, EXPERTS = 4, 2, 3


def save(folder, *, mixture=False):
    """A llama or a Mixtral with sides that blocks of 32 divide, heads of 16, and fewer heads of keys."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "tie_word_embeddings": False}
    torch.manual_seed(2)
    if mixture:
        model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=EXPERTS))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    model.save_pretrained(folder)
    return folder


def pruned_of(folder, out, sparsity="2:4", targets=None):
    checkpoint = Checkpoint.open(folder)
    scores = FakeScores(checkpoint, targets and targets(checkpoint))
    project(checkpoint, scores, parsed(sparsity), out, CpuBackend())
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    place = tmp_path_factory.mktemp("gguf")
    return pruned_of(save(place / "model"), place / "out")


@pytest.fixture(scope="module")
def whole(pruned, tmp_path_factory):
    """The bytes of a file in Q8_0."""
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    converted(pruned, path, gguf.GGMLQuantizationType.Q8_0)
    return path.read_bytes()


def permuted(weight, heads):
    """The order of rows that the converter of llama.cpp writes."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def converted(folder, path, kind, *, architecture="llama", turn=True, turned=False):
    """Write the matrices of a checkpoint as the converter and a quantiser do; return what they stand for."""
    checkpoint = Checkpoint.open(folder)
    blocks = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], 2)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    values, stacks = {}, {}
    for target in experts_of(checkpoint) or targets_of(checkpoint):
        weight = checkpoint.read(target.name).float().numpy()
        weight = weight.T.copy() if turned else weight
        codes = gguf.quants.quantize(weight, kind)
        values[target.name] = torch.from_numpy(gguf.quants.dequantize(codes, kind).astype(np.float32))
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(target.name.split(".")[-2]) if turn else None
        codes = gguf.quants.quantize(permuted(weight, heads), kind) if heads else codes
        name = target.name
        if ".experts." in name:
            stem, number, rest = name.partition(".experts.")[0], *name.partition(".experts.")[2].split(".", 1)
            stacks.setdefault(f"{stem}.experts.{rest}", {})[int(number)] = codes
        else:
            writer.add_tensor(blocks.get_name(name, (".weight",)), codes, raw_dtype=kind)
    for name, parts in stacks.items():
        stack = np.stack([parts[number] for number in sorted(parts)])
        writer.add_tensor(blocks.get_name(name, (".weight",)), stack, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def experts_of(checkpoint):
    from unipruning_core.storage.checkpoint import Target

    return tuple(Target(name, info.shape) for name, info in checkpoint.tensors.items() if ".experts." in name)


KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q5_1", "Q4_1", "TQ2_0")


@pytest.mark.parametrize("turn", [True, False], ids=["converted", "in order"])
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_counts_are_those_of_the_dequantised_weights(kind, turn, pruned, tmp_path):
    values = converted(pruned, tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind], turn=turn)
    checked, masks = check_zeros(pruned, tmp_path / "m.gguf", Progress()), read_masks(pruned)
    before = Checkpoint.open(pruned)
    for matrix in checked.matrices:
        mask, zero = masks.read(matrix.name), values[matrix.name] == 0
        nonzero = (~zero).view(-1, 4).sum(1)
        assert matrix.still_zero == int((zero & ~mask).sum()), matrix.name
        assert matrix.became_zero == int((zero & mask & (before.read(matrix.name) != 0)).sum())
        assert (matrix.stored, matrix.broken_groups) == (kind, int((nonzero > 2).sum()))
    assert (checked.overall.fraction == 1) == (kind not in ("Q4_1", "Q5_1"))
    assert (checked.overall.broken_groups > 0) == (kind in ("Q4_1", "Q5_1"))


def test_conv1d_lies_as_other_layers_do(tmp_path):
    folder = pruned_of(save_gpt2(tmp_path / "model"), tmp_path / "out", "50%")
    kind = gguf.GGMLQuantizationType.F16
    converted(folder, tmp_path / "m.gguf", kind, architecture="gpt2", turn=False, turned=True)
    overall = check_zeros(folder, tmp_path / "m.gguf", Progress()).overall
    assert (overall.matrices, overall.fraction) == (8, 1.0)


def test_experts_are_parts_of_a_stack(tmp_path):
    folder = pruned_of(save(tmp_path / "model", mixture=True), tmp_path / "out", targets=experts_of)
    values = converted(folder, tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q4_1)
    checked, masks = check_zeros(folder, tmp_path / "m.gguf", Progress()), read_masks(folder)
    assert len(checked.matrices) == 2 * 3 * EXPERTS
    for matrix in checked.matrices:
        assert matrix.still_zero == int(((values[matrix.name] == 0) & ~masks.read(matrix.name)).sum())


def test_a_file_that_is_damaged_or_of_another_model_is_refused(pruned, tmp_path):
    path = tmp_path / "m.gguf"
    converted(pruned, path, gguf.GGMLQuantizationType.F16)
    whole = path.read_bytes()
    for content in (b"", b"GGUX" + whole[4:], whole[:40], whole[:-30000], whole[:8] + b"\xff" * 16 + whole[24:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as GGUF: .*; make it again from the pruned"):
            check_zeros(pruned, path, Progress())
    other = pruned_of(save(tmp_path / "other", mixture=True), tmp_path / "out", targets=experts_of)
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"holds no weight '.*experts.*' of the architecture 'llama'"):
        check_zeros(other, path, Progress())


@quick
@given(st.lists(st.tuples(places, st.binary(min_size=1, max_size=9)), min_size=1, max_size=3))
def test_a_file_of_anything_is_refused_or_counted(pruned, whole, tmp_path, changes):
    content = bytearray(whole)
    for where, new in changes:
        at = int(where**3 * len(content))  # mostly in the header
        content[at : at + len(new)] = new
    (tmp_path / "m.gguf").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert check_zeros(pruned, tmp_path / "m.gguf", Progress()).overall.matrices == 14


def test_more_blocks_than_tensors_are_not_believed(pruned, whole, tmp_path):
    key = b"llama.block_count"
    at = whole.index(key) + len(key) + 4
    (tmp_path / "m.gguf").write_bytes(whole[:at] + (2**31 - 1).to_bytes(4, "little") + whole[at + 4 :])
    with pytest.raises(CheckpointError, match="it tells of 2147483647 blocks with 14 tensors"):
        check_zeros(pruned, tmp_path / "m.gguf", Progress())


def test_without_the_package_the_command_says_what_to_install(pruned, tmp_path, monkeypatch, refused):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "which is not installed; pip install gguf" in refused("check-zeros", pruned, tmp_path / "m.gguf")

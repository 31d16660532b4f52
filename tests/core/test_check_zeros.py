"""What is left of the zeros in a result: exact counts for safetensors in every layout that is read, and the command."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from _checkpoints import FakeScores, changed, parsed, save_gpt2, save_llama
from _quantised import as_bitmask, as_fp8, as_gptq, as_packed, as_rows
from safetensors.torch import load_file, save_file

from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.zeros.check import check_zeros
from unipruning_cpu.backend import CpuBackend

DOWN = "model.layers.1.mlp.down_proj.weight"


def pruned_of(folder, sparsity, out):
    checkpoint = Checkpoint.open(folder)
    project(checkpoint, FakeScores(checkpoint), parsed(sparsity), out, CpuBackend(), keep_per_row=1)
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Pruned llamas by sparsity, never changed."""
    place = tmp_path_factory.mktemp("pruned")
    return {text: pruned_of(save_llama(place / "model"), text, place / text.replace(":", "-")) for text in ("60%",)}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    place = tmp_path_factory.mktemp("pattern")
    checkpoint = Checkpoint.open(save_llama(place / "model"))
    project(checkpoint, FakeScores(checkpoint), parsed("2:4"), place / "out", CpuBackend())
    return place / "out"


@pytest.fixture
def copied(pruned, tmp_path):
    """A result that is the pruned checkpoint itself."""
    return shutil.copytree(pruned["60%"], tmp_path / "result")


def counted(pruned, result):
    return check_zeros(pruned, result, Progress())


def test_a_copy_has_every_zero_and_no_other(pruned, copied):
    checked, masks = counted(pruned["60%"], copied), read_masks(pruned["60%"])
    assert [matrix.name for matrix in checked.matrices] == [target.name for target in masks.targets]
    for matrix in checked.matrices:
        mask = masks.read(matrix.name)
        assert (matrix.masked, matrix.still_zero) == (int((~mask).sum()), int((~mask).sum()))
        assert (matrix.kept, matrix.became_zero, matrix.stored) == (int(mask.sum()), 0, "BF16")
        assert (matrix.fraction, matrix.pattern) == (1.0, None)


def test_changes_are_counted_by_matrix(pruned, copied):
    mask = read_masks(pruned["60%"]).read(DOWN)
    holes, kept = mask.logical_not().nonzero(), mask.nonzero()

    def change(tensors):
        weight = tensors[DOWN]
        weight[tuple(holes[:3].t())] = torch.tensor([1e-30, -1.0, torch.nan]).to(weight.dtype)
        weight[tuple(holes[3:5].t())] = -0.0
        weight[tuple(kept[:7].t())] = 0.0

    checked = counted(pruned["60%"], changed(copied, change))
    for matrix in checked.matrices:
        lost, gained = (3, 7) if matrix.name == DOWN else (0, 0)
        assert (matrix.masked - matrix.still_zero, matrix.became_zero) == (lost, gained), matrix.name
    overall = checked.overall
    assert (overall.masked - overall.still_zero, overall.became_zero, overall.matrices) == (3, 7, 14)


def test_a_weight_that_was_zero_before_pruning_has_not_become_zero(pruned, tmp_path):
    model = changed(save_llama(tmp_path / "model"), lambda tensors: tensors[DOWN].zero_())
    out = pruned_of(model, "60%", tmp_path / "out")
    assert counted(out, out).overall.became_zero == 0


def test_a_group_with_more_than_n_weights_breaks_the_pattern(pattern, tmp_path):
    result = shutil.copytree(pattern, tmp_path / "result")
    assert counted(pattern, result).overall.broken_groups == 0
    mask = read_masks(pattern).read(DOWN)

    def change(tensors):
        row = tensors[DOWN][3]
        row[:8][~mask[3, :8]] = 1.0  # two groups
        tensors[DOWN][5, 0:4] = torch.tensor([1.0, 1.0, 0.0, 0.0])  # another 2:4

    found = {matrix.name: matrix for matrix in counted(pattern, changed(result, change)).matrices}
    assert (found[DOWN].pattern, found[DOWN].broken_groups) == ("2:4", 2)
    assert sum(matrix.broken_groups for matrix in found.values()) == 2


LAYOUTS = {
    "fp8 blocks": (as_fp8, "F8_E4M3"),
    "fp8 rows": (as_rows, "F8_E4M3"),
    "int8 rows": (lambda folder: as_rows(folder, torch.int8, 127.0), "I8"),
    "int4 packed": (as_packed, "I32"),
    "int4 with zero points": (lambda folder: as_packed(folder, zero_points=True), "I32"),
    "bitmask": (as_bitmask, "BF16"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_is_read_keeps_zeros(layout, pruned, copied):
    make, stored = LAYOUTS[layout]
    overall = counted(pruned["60%"], make(copied)).overall
    assert (overall.fraction, overall.stored) == (1.0, stored)
    # what the codes round away
    assert (overall.became_zero > 0) == layout.startswith("int")


def test_a_single_file_with_other_prefixes_is_read_as_the_layer_lies(tmp_path):
    """GPT-2 stores (in, out), and transformers saves it with a prefix that its oldest files lack."""
    folder = pruned_of(save_gpt2(tmp_path / "model"), "50%", tmp_path / "out")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("c_fc.weight"))
    target = next(target for target in read_masks(folder).targets if target.name == name)
    assert target.transposed
    mask = read_masks(folder).read(name).t()
    tensors[name][tuple(mask.logical_not().nonzero()[:4].t())] = 1.0
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, tmp_path / "alone.safetensors")
    found = {matrix.name: matrix for matrix in counted(folder, tmp_path / "alone.safetensors").matrices}
    assert found[name].masked - found[name].still_zero == 4
    assert sum(matrix.masked - matrix.still_zero for matrix in found.values()) == 4


def test_experts_that_lie_in_one_tensor_are_counted_apart(mixture, tmp_path):
    from _folders import succeed

    words = [mixture / "model", "--data", mixture / "text.txt", "--samples", "2", "--seq-len", "16"]
    succeed(
        "prune", *words, "--mode", "frozen", "--metric", "magnitude", "--sparsity", "2:4", "--out", tmp_path / "out"
    )
    masks = read_masks(tmp_path / "out")
    stacked = [target for target in masks.targets if target.within is not None]
    assert counted(tmp_path / "out", tmp_path / "out").overall.fraction == 1.0
    file = Checkpoint.open(tmp_path / "out").shards[0]
    tensors, last = load_file(file), (stacked or list(masks.targets))[-1]
    mask = masks.read(last.name)
    stored = (mask.t() if last.transposed else mask).flatten()
    part = tensors[last.tensor].view(-1)[last.start : last.start + last.size]
    part[stored.logical_not().nonzero()[:5].flatten()] = 1.0
    save_file(tensors, file, {"format": "pt"})
    lost = {m.name: m.masked - m.still_zero for m in counted(tmp_path / "out", tmp_path / "out").matrices}
    assert {name: count for name, count in lost.items() if count} == {last.name: 5}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop(DOWN), "holds no weight 'model.layers.1.mlp.down_proj.weight'"),
        (lambda t: t.update({DOWN: t[DOWN].t().contiguous()}), r"has the shape \(40, 24\)"),
    ],
    ids=["missing", "turned"],
)
def test_a_result_of_another_model_is_refused(change, fault, pruned, copied):
    tensors = load_file(copied / "model.safetensors")
    change(tensors)
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=fault):
        counted(pruned["60%"], copied)


def test_codes_that_are_not_read_are_named(pruned, copied):
    with pytest.raises(CheckpointError, match="is quantised by GPTQ or AWQ, whose codes are not read here"):
        counted(pruned["60%"], as_gptq(copied))


def test_the_command_prints_a_line_for_layers_that_are_alike_and_requires(pruned, copied, capsys):
    words = ["check-zeros", str(pruned["60%"]), str(copied)]
    assert main([*words, "--require", "100%"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 7 + 1
    assert lines[-1].split() == ["14", "BF16", *lines[-1].split()[2:]]
    assert "100.0000%" in lines[-1]
    assert main([*words, "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 14 + 1
    mask = read_masks(pruned["60%"]).read(DOWN)
    changed(copied, lambda tensors: tensors[DOWN].__setitem__(tuple(mask.logical_not().nonzero()[0]), 1.0))
    assert main([*words, "--require", "100%", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "unipruning-zeros-1"
    assert report["overall"]["masked"] - report["overall"]["still_zero"] == 1
    assert report["matrices"][DOWN]["fraction"] < 1
    assert main([*words, "--require", "99%"]) == 0
    assert main(words) == 0
    assert "99.9" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["PRUNED", "nowhere"], "result 'nowhere' does not exist; pass a folder or a file"),
        (["nowhere", "PRUNED"], "'nowhere' is not a folder; pass a folder that 'unipruning project' wrote"),
        (["MODEL", "PRUNED"], "; pass a folder that 'unipruning project' wrote"),
        (["PRUNED", "PRUNED", "--require", "101%"], "--require must be a percentage of at most 100%, not '101%'"),
        (["PRUNED", "PRUNED", "--require", "1"], "not '1'"),
    ],
)
def test_what_is_misspelt_is_refused(words, fault, pruned, refused):
    places = {"PRUNED": pruned["60%"], "MODEL": pruned["60%"].parent / "model"}
    assert fault in refused("check-zeros", *[places.get(word, word) for word in words])

"""What a pruned checkpoint takes in each form, counted again from its tensors."""

from __future__ import annotations

import json

import pyarrow
import pytest
from _checkpoints import FakeScores, parsed, save_gpt2, save_llama

from unipruning_core.cli.main import main
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.size import FORMATS, sizes_of
from unipruning_cpu.backend import CpuBackend


def pruned_of(folder, sparsity, out):
    checkpoint = Checkpoint.open(folder)
    project(checkpoint, FakeScores(checkpoint), parsed(sparsity), out, CpuBackend())
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Pruned checkpoints by sparsity, never changed."""
    place = tmp_path_factory.mktemp("sizes")
    save_llama(place / "model", shards=True)
    return {text: pruned_of(place / "model", text, place / text.replace(":", "-")) for text in ("60%", "2:4", "1:4")}


def rows_of(folder):
    return {row.name.partition(": ")[0]: row for row in sizes_of(folder, Progress()).rows}


@pytest.mark.parametrize("sparsity", ["60%", "2:4", "1:4"])
def test_files_and_masks_are_counted(sparsity, pruned):
    folder, rows = pruned[sparsity], rows_of(pruned[sparsity])
    masks = read_masks(folder)
    dense = sum(2 * target.size for target in masks.targets)
    files = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    assert (rows["as it is"].targets, rows["as it is"].total) == (dense, files)
    kept = sum(int(masks.read(target.name).sum()) for target in masks.targets)
    packed = sum(info.nbytes for info in masks.packed.values()) + 2 * kept
    assert (rows["packed"].targets, rows["packed"].total) == (packed, files - dense + packed)
    assert ("2:4 packed" in rows) == (sparsity != "60%")
    if sparsity != "60%":
        # 2 of every 4 weights in 16 bits, and 2 bits for each
        assert rows["2:4 packed"].targets == dense * (2 * 16 + 2 * 2) // (4 * 16)
        assert rows["2:4 packed"].unfit == 0


def test_matrices_without_the_pattern_stay_as_they_are(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"default": "50%", "sparsity": {"*.0.*": "2:4"}}))
    save_llama(tmp_path / "model")
    folder = pruned_of(tmp_path / "model", f"@{tmp_path / 'b.json'}", tmp_path / "out")
    row, dense = rows_of(folder)["2:4 packed"], rows_of(folder)["as it is"].targets
    assert row.unfit == 7
    assert row.targets == dense // 2 + dense // 2 * 36 // 64


def test_zstd_takes_less_for_more_zeros_and_its_bytes_are_those_of_the_codec(pruned):
    rows = {sparsity: rows_of(folder)["zstd -3 of every tensor"] for sparsity, folder in pruned.items()}
    assert rows["1:4"].targets < rows["60%"].targets < rows["2:4"].targets
    checkpoint = Checkpoint.open(pruned["60%"])
    names = {target.name for target in read_masks(pruned["60%"]).targets}
    found = {True: 0, False: 0}
    for name, info in checkpoint.tensors.items():
        content = info.file.read_bytes()[info.start : info.end]
        found[name in names] += pyarrow.Codec("zstd", 3).compress(content).size
    assert (rows["60%"].targets, rows["60%"].total) == (found[True], found[True] + found[False])


def test_without_zstd_the_row_is_left_out_and_said(pruned, monkeypatch, capsys):
    class Without:
        is_available = staticmethod(lambda name: False)

    monkeypatch.setattr(pyarrow, "Codec", Without)
    assert main(["size", str(pruned["60%"])]) == 0
    shown = capsys.readouterr().out
    assert "zstd is left out: this pyarrow is built without it" in shown
    assert "zstd -3" not in shown


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_1", "Q4_0", "Q4_K", "Q3_K", "Q2_K", "TQ2_0", "MXFP4", "NVFP4"])
def test_blocks_are_as_large_as_those_of_ggml(name):
    gguf = pytest.importorskip("gguf")
    form = next(form for form in FORMATS if form.name == name)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert form.bytes * block == size * form.block


def test_formats_are_counted_by_row_and_block(tmp_path):
    folder = pruned_of(save_gpt2(tmp_path / "model"), "50%", tmp_path / "out")
    rows, targets = rows_of(folder), read_masks(folder).targets
    assert rows["FP8 or int8, a float32 scale a row"].targets == sum(t.size + 4 * t.shape[0] for t in targets)
    # 24 and 96 inputs: blocks of 32 fit the second projection of an MLP alone
    assert rows["Q4_0"].unfit == 6
    fitting = [target for target in targets if target.shape[1] == 96]
    rest = sum(4 * target.size for target in targets if target not in fitting)
    assert rows["Q4_0"].targets == rest + sum(18 * target.size // 32 for target in fitting)
    assert "Q4_K" not in rows


def test_the_command_prints_one_table(pruned, capsys, refused):
    assert main(["size", str(pruned["2:4"]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert main(["size", str(pruned["2:4"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + len(report["rows"])
    assert [line.split()[0] for line in lines[3:]] == [str(row["target_bytes"]) for row in report["rows"]]
    assert report["kept"] * 2 == report["target_weights"]
    assert "is not a folder; pass a folder that 'unipruning project' wrote" in refused("size", "nowhere")
    assert "; pass a folder that 'unipruning project' wrote" in refused("size", pruned["2:4"].parent / "model")

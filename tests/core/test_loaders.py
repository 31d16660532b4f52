"""What loaders take for the weights of a pruned checkpoint, and folders whose mask file has its earlier name."""

from __future__ import annotations

import json

import pytest
from _checkpoints import FakeScores, content, parsed
from safetensors import safe_open

from unipruning_core.errors import OutputError
from unipruning_core.projection.mask_file import EARLIER_MASK_FILE, MASK_FILE, read_masks
from unipruning_core.projection.place import discard_checkpoint
from unipruning_core.projection.project import project
from unipruning_core.projection.report import REPORT_FILE
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.documents import sealed
from unipruning_cpu.backend import CpuBackend

INDEX = "model.safetensors.index.json"


def of_index(folder):
    return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))


def transformers_files(folder):
    single = "model.safetensors"
    return [single] if (folder / single).is_file() else of_index(folder)


def every_safetensors_file(folder):
    return [path.name for path in folder.glob("*.safetensors")]


def vllm_files(folder):
    found = every_safetensors_file(folder)
    return [name for name in found if name in of_index(folder)] if (folder / INDEX).is_file() else found


def sglang_files(folder):
    # as vLLM; without an index it leaves out the single file that some models have beside their parts
    return [name for name in vllm_files(folder) if name != "consolidated.safetensors"]


def mlx_lm_files(folder):
    return [path.name for path in folder.glob("model*.safetensors")]


def gguf_converter_files(folder):
    parts = [path.name for path in folder.iterdir() if path.name.startswith("model")]
    return [name for name in parts if name.endswith(".safetensors")]


def recursive_lister_files(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]


LOADERS = [
    transformers_files,
    vllm_files,
    sglang_files,
    mlx_lm_files,
    gguf_converter_files,
    every_safetensors_file,
    recursive_lister_files,
]


def pruned(model, out, **options):
    checkpoint = Checkpoint.open(model)
    project(checkpoint, FakeScores(checkpoint), parsed("60%"), out, CpuBackend(), **options)
    return out


def names_in(folder, files):
    names = []
    for name in files:
        with safe_open(folder / name, framework="pt") as file:
            names += file.keys()
    return sorted(names)


def as_before(folder):
    """Give the mask file its earlier name, as the folders of earlier versions have it."""
    (folder / MASK_FILE).rename(folder / EARLIER_MASK_FILE)
    report = json.loads((folder / REPORT_FILE).read_text())
    del report["checksum"]
    report["written"] = sorted(EARLIER_MASK_FILE if name == MASK_FILE else name for name in report["written"])
    (folder / REPORT_FILE).write_text(json.dumps(sealed(report)))
    return folder


@pytest.fixture
def before(single, tmp_path):
    return as_before(pruned(single, tmp_path / "before"))


@pytest.mark.parametrize("files_of", LOADERS, ids=lambda loader: loader.__name__)
@pytest.mark.parametrize("model", ["single", "sharded", "pruned", "pruned before"])
def test_a_loader_finds_each_tensor_of_the_model_once_and_nothing_else(files_of, model, single, sharded, tmp_path):
    source = {"single": single, "sharded": sharded}.get(model)
    if source is None:
        source = pruned(single, tmp_path / "source")
        if model == "pruned before":
            as_before(source)
    folder = pruned(source, tmp_path / "out")
    assert names_in(folder, files_of(folder)) == sorted(Checkpoint.open(source).tensors)


def test_a_loader_that_takes_every_file_finds_masks_in_an_earlier_folder(before):
    names = names_in(before, vllm_files(before))
    assert len(names) > len(set(names))


@pytest.mark.parametrize("renamed", [False, True])
def test_masks_under_their_earlier_name_are_read_and_may_be_renamed(renamed, before, single, tmp_path):
    if renamed:
        (before / EARLIER_MASK_FILE).rename(before / MASK_FILE)
    found, expected = read_masks(before, progress=False), read_masks(pruned(single, tmp_path / "now"))
    assert found.targets == expected.targets
    assert all(found.read(target.name).equal(expected.read(target.name)) for target in found.targets)


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("listed", [True, False])
def test_an_earlier_folder_is_overwritten_as_a_whole(renamed, listed, before, single, tmp_path):
    if not listed:  # as by the formats that did not list what was written
        report = json.loads((before / REPORT_FILE).read_text())
        del report["checksum"], report["written"]
        (before / REPORT_FILE).write_text(json.dumps(report | {"format": "unipruning-checkpoint-2"}))
    if renamed:
        (before / EARLIER_MASK_FILE).rename(before / MASK_FILE)
    with pytest.raises(OutputError, match="is not empty"):
        pruned(single, before)
    pruned(single, before, overwrite=True)
    assert content(before) == content(pruned(single, tmp_path / "now"))


def test_an_earlier_folder_is_discarded_as_a_whole(before):
    discard_checkpoint(before)
    assert not before.exists() or not list(before.iterdir())


def test_weights_in_a_file_with_the_earlier_name_are_pruned_like_any_other(copy_of_shards, tmp_path):
    weight_map = json.loads((copy_of_shards / INDEX).read_text())["weight_map"]
    first = min(weight_map.values())
    (copy_of_shards / first).rename(copy_of_shards / EARLIER_MASK_FILE)
    places = {name: EARLIER_MASK_FILE if file == first else file for name, file in weight_map.items()}
    (copy_of_shards / INDEX).write_text(json.dumps({"weight_map": places}))
    folder = pruned(copy_of_shards, tmp_path / "out")
    assert names_in(folder, vllm_files(folder)) == sorted(weight_map)
    assert read_masks(folder).sparsity == "60%/matrix"


def test_masks_of_an_earlier_pruning_are_not_copied_into_a_new_one(single, tmp_path):
    once = pruned(single, tmp_path / "once")
    twice = pruned(once, tmp_path / "twice")
    not_copied = json.loads((twice / REPORT_FILE).read_text())["not_copied"]
    assert not_copied == {
        MASK_FILE: "the masks of an earlier pruning",
        REPORT_FILE: "the report of an earlier pruning",
    }

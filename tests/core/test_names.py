"""Names that documents give to files: of the same folder on every system, and not of what else is written there."""

import json
import shutil

import pytest
from _folders import SEARCH

from unipruning_core.data.text import load_text
from unipruning_core.errors import UnipruningError
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.paths import is_plain_name

ELSEWHERE = [
    "../x.safetensors",
    "/etc/x.safetensors",
    "a/x.safetensors",
    "..\\x.safetensors",
    "C:x.safetensors",
    "x.safetensors:stream",
    "x\0.safetensors",
    "x\n.safetensors",
    "\u202esrosnetefas.safetensors",  # written from right to left
    "x\udc80.safetensors",
    "..",
    ".",
    "",
]


@pytest.mark.parametrize("name", [*ELSEWHERE, " x", "x ", "x.", ".x"])
def test_a_name_that_leads_elsewhere_on_some_system_is_not_plain(name):
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "données.arrow", "数据 1.arrow", "a..b"])
def test_a_name_of_a_file_in_the_same_folder_is_plain(name):
    assert is_plain_name(name)


@pytest.mark.parametrize("name", [*ELSEWHERE, "x.bin", "x.SAFETENSORS", "safetensors"])
def test_an_index_names_safetensors_files_beside_it_and_nothing_else(copy_of_shards, name):
    path = copy_of_shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    path.write_text(json.dumps(index))
    with pytest.raises(UnipruningError, match=r"not in a safetensors file beside it|is damaged"):
        Checkpoint.open(copy_of_shards)


def test_weights_where_masks_belong_are_refused_before_the_search(home, sharded, tmp_path, refused):
    model = shutil.copytree(sharded, tmp_path / "model")
    for path in (home / "model").glob("tokenizer*"):
        shutil.copy(path, model)
    path = model / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = min(index["weight_map"].values())
    (model / first).rename(model / "masks.safetensors")
    places = {name: "masks.safetensors" if file == first else file for name, file in index["weight_map"].items()}
    path.write_text(json.dumps({"weight_map": places}))
    words = ("--sparsity", "50%", "--out", tmp_path / "out", "--data", home / "text.txt", *SEARCH)
    assert "in 'masks.safetensors', where the masks of a pruned checkpoint belong" in refused("prune", model, *words)
    assert sorted(tmp_path.iterdir()) == [model]


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """A data set, ``secret``, and beside it one with splits, as ``save_to_disk`` writes them."""
    import datasets

    folder = tmp_path_factory.mktemp("data")
    saved = datasets.Dataset.from_dict({"text": ["a document of words"]})
    saved.save_to_disk(folder / "secret")
    datasets.DatasetDict({"train": saved}).save_to_disk(folder / "splits")
    return folder


@pytest.fixture
def data_set(data_sets, tmp_path):
    shutil.copytree(data_sets, tmp_path / "data")
    return tmp_path / "data" / "splits"


@pytest.mark.parametrize("name", ["../secret", "", "..", "train/../../secret", 3])
def test_a_saved_data_set_has_its_splits_in_its_folder(data_set, name):
    assert load_text(str(data_set)).documents
    (data_set / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(UnipruningError, match="is not a name in the folder"):
        load_text(str(data_set))


@pytest.mark.parametrize("content", [{"filename": "../../secret/data-00000-of-00001.arrow"}, {}, None])
def test_a_saved_data_set_has_its_files_in_its_folder(data_set, content):
    path = data_set / "train" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_data_files": [content]}))
    with pytest.raises(UnipruningError, match=r"is not a name in the folder|'filename' is missing"):
        load_text(str(data_set))

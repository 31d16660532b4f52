"""Names that documents give to files: of the same folder on every system, and not of what else is written there."""

import json
import shutil

import pytest

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

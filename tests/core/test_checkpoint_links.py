"""Links in a model folder: copied where they stay inside it or lead to the hub's cache, else left out or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Checkpoint


def test_a_link_that_leads_outside_the_model_is_not_copied(copy, tmp_path):
    (tmp_path / "secret.txt").write_text("a secret")
    (copy / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (copy / "alias.json").symlink_to("tokenizer.json")
    copied, left_out = Checkpoint.open(copy).files_to_copy()
    assert Path("alias.json") in copied
    assert left_out == {"notes.txt": "a link to a file outside the model"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_what_no_model_is_without_must_not_lead_outside(name, copy_of_shards, tmp_path):
    (copy_of_shards / name).rename(tmp_path / name)
    (copy_of_shards / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"'{name}' of .* is a link to a file outside the model"):
        Checkpoint.open(copy_of_shards).files_to_copy()


def test_links_into_the_blobs_of_the_hubs_cache_are_copied(copy, tmp_path):
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(copy.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "notes.txt").symlink_to("../../../elsewhere.txt")
    (tmp_path / "elsewhere.txt").write_text("not a blob")
    copied, left_out = Checkpoint.open(snapshot).files_to_copy()
    assert {path.name for path in copied} == {"config.json", "generation_config.json", "tokenizer.json"}
    assert list(left_out) == ["notes.txt"]

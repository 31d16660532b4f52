"""Model folders that cannot be read: each is refused in one sentence that names the remedy."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from _checkpoints import write_raw

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Checkpoint


def refusal_of(folder):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def test_a_folder_without_a_config_is_no_model(copy):
    (copy / "config.json").unlink()
    assert "has no config.json" in refusal_of(copy)
    assert "has no config.json" in refusal_of(copy / "nowhere")


def test_a_folder_without_weights_says_how_to_save_them(copy):
    (copy / "model.safetensors").unlink()
    assert "neither model.safetensors nor" in refusal_of(copy)


def test_pickled_weights_are_refused_with_the_remedy(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"a pickle")
    message = refusal_of(copy)
    assert (
        "only pickled weights ('pytorch_model.bin')" in message or "only pickled weights (pytorch_model.bin)" in message
    )
    assert "model.save_pretrained(folder, safe_serialization=True)" in message


def test_a_missing_shard_is_named(copy_of_shards):
    shard = Checkpoint.open(copy_of_shards).shards[1]
    shard.unlink()
    assert repr(shard.name) in refusal_of(copy_of_shards)


def test_a_name_that_its_shard_lacks_is_named(copy_of_shards):
    index = copy_of_shards / "model.safetensors.index.json"
    parsed = json.loads(index.read_text())
    parsed["weight_map"]["phantom.weight"] = next(iter(parsed["weight_map"].values()))
    index.write_text(json.dumps(parsed))
    assert "places 'phantom.weight' in" in refusal_of(copy_of_shards)


def test_a_name_that_lies_in_another_shard_is_named(copy_of_shards):
    index = copy_of_shards / "model.safetensors.index.json"
    parsed = json.loads(index.read_text())
    name, shard = next(iter(parsed["weight_map"].items()))
    parsed["weight_map"][name] = next(file for file in parsed["weight_map"].values() if file != shard)
    index.write_text(json.dumps(parsed))
    assert f"places {name!r} in" in refusal_of(copy_of_shards)


def test_one_tensor_in_two_shards_is_refused(copy_of_shards):
    first, second = Checkpoint.open(copy_of_shards).shards[:2]
    shutil.copy(first, second)
    assert f"is in {first.name!r} and in {second.name!r}" in refusal_of(copy_of_shards)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is damaged"),
        ("[]", "has no weight_map"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"w": "../elsewhere.safetensors"}}', "not in a file beside it"),
        ('{"weight_map": {"w": 3}}', "not in a file beside it"),
        ("\udcff", "is damaged"),
    ],
)
def test_a_damaged_index_is_refused(text, fault, copy_of_shards):
    (copy_of_shards / "model.safetensors.index.json").write_bytes(text.encode(errors="surrogateescape"))
    assert fault in refusal_of(copy_of_shards)


def test_the_scales_of_a_quantised_checkpoint_are_copied_as_they_are(copy):
    write_raw(copy / "model.safetensors", {"a": {**entry(0, 3, (3,)), "dtype": "F8_E8M0"}}, b"\x7f\x80\x00")
    assert Checkpoint.open(copy).read("a").view(torch.uint8).tolist() == [127, 128, 0]


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data", "fault"),
    [
        pytest.param({"a": entry(0, 4)}, 3, "describes", id="one byte short"),
        pytest.param({"a": entry(0, 4)}, 5, "describes", id="one byte too many"),
        pytest.param({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' comes after a gap", id="gap"),
        pytest.param({"a": entry(4, 8)}, 8, "'a' comes after a gap", id="gap at the start"),
        pytest.param({"a": entry(0, 8, (2,)), "b": entry(4, 8)}, 8, "'b' overlaps", id="overlap"),
        pytest.param({"a": entry(0, 8)}, 8, "'a' of shape [1] and type F32 has 8 bytes", id="shape and bytes differ"),
        pytest.param({"a": entry(-4, 0)}, 0, "'a' of shape", id="negative offset"),
        pytest.param({"a": entry(0, 4, (-1, -1))}, 4, "has the shape [-1, -1]", id="negative side"),
        pytest.param({"a": entry(0, 4, ("1",))}, 4, "has the shape ['1']", id="side that is text"),
        pytest.param({"a": entry(0, 4, dtype="F33")}, 4, "stored as 'F33', which is not supported", id="unknown type"),
        pytest.param({"a": {"dtype": "F32"}}, 0, "lacks its dtype, shape or data_offsets", id="entry cut short"),
        pytest.param({"a": 3}, 0, "lacks its dtype, shape or data_offsets", id="entry that is a number"),
        pytest.param([], 0, "not a JSON object", id="list"),
        pytest.param(b"{", 0, "damaged", id="bad JSON"),
        pytest.param(b"\xff\xfe", 0, "damaged", id="bad UTF-8"),
        pytest.param(b"[" * 100_000, 0, "damaged", id="bottomless JSON"),
        pytest.param(b'{"a": 1, "a": 2}', 0, "repeats a name", id="name twice"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(header, data, fault, copy):
    write_raw(copy / "model.safetensors", header, bytes(data))
    message = refusal_of(copy)
    assert fault in message
    assert "model.safetensors" in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has 0 bytes"),
        (b"\x10\x00", "has 2 bytes"),
        (b"\xff" * 64, "the header claims"),
        (b"\x39" + bytes(7) + b"{}", "the header claims 57 bytes, but the file has 10"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_a_file_that_has_no_header_is_refused(content, fault, copy):
    (copy / "model.safetensors").write_bytes(content)
    assert fault in refusal_of(copy)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_download_is_refused(kept, copy):
    path = copy / "model.safetensors"
    os.truncate(path, int(path.stat().st_size * kept))
    assert "damaged" in refusal_of(copy)


def test_a_file_that_shrinks_after_it_was_opened_is_noticed(copy):
    checkpoint = Checkpoint.open(copy)
    os.truncate(copy / "model.safetensors", checkpoint.shards[0].stat().st_size - 1)
    with pytest.raises(CheckpointError, match="became shorter"):
        checkpoint.read(next(reversed(checkpoint.tensors)))


def test_a_file_that_vanishes_after_it_was_opened_is_noticed(copy):
    checkpoint = Checkpoint.open(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read(next(iter(checkpoint.tensors)))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.fingerprint()

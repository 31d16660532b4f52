"""Model folders that cannot be read: each is refused in one sentence that names the remedy."""

from __future__ import annotations

import json
import math
import os
import shutil

import pytest
import torch
from _checkpoints import write_raw

from unipruning_core.errors import CheckpointError
from unipruning_core.models.loading import ModelChoice, load_config_and_tokenizer
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.tensorfile import read_header


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


def test_a_shard_that_is_another_one_is_refused_by_what_it_lacks(copy_of_shards):
    first, second = Checkpoint.open(copy_of_shards).shards[:2]
    shutil.copy(first, second)
    assert f"in {second.name!r}, which lacks it" in refusal_of(copy_of_shards)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is damaged"),
        ("[]", "has no weight_map"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"w": "../elsewhere.safetensors"}}', "not in a safetensors file beside it"),
        ('{"weight_map": {"w": 3}}', "not in a safetensors file beside it"),
        ("\udcff", "is damaged"),
    ],
)
def test_a_damaged_index_is_refused(text, fault, copy_of_shards):
    (copy_of_shards / "model.safetensors.index.json").write_bytes(text.encode(errors="surrogateescape"))
    assert fault in refusal_of(copy_of_shards)


def test_the_scales_of_a_quantised_checkpoint_are_copied_as_they_are(copy):
    write_raw(copy / "model.safetensors", {"a": {**entry(0, 3, (3,)), "dtype": "F8_E8M0"}}, b"\x7f\x80\x00")
    assert Checkpoint.open(copy).read("a").view(torch.uint8).tolist() == [127, 128, 0]


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F4", (2, 3), 3),
        ("F6_E2M3", (4,), 3),
        ("F6_E3M2", (2, 8), 12),
        ("F8_E4M3FNUZ", (5,), 5),
        ("F8_E5M2FNUZ", (5,), 5),
        ("C64", (2,), 16),
        ("F4", (0, 3), 0),
    ],
)
def test_a_tensor_of_any_type_of_the_format_is_measured_in_bits(dtype, shape, size, copy):
    data = bytes(range(size))
    write_raw(copy / "model.safetensors", {"a": {**entry(0, size, shape), "dtype": dtype}}, data)
    found = Checkpoint.open(copy)
    assert found.tensors["a"].shape == shape
    assert bytes(found.read("a").flatten().view(torch.uint8).tolist()) == data
    assert len(found.fingerprint()) == 64


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
        pytest.param({"a": entry(0, 2, (3,), "F4")}, 2, "'a' of shape [3] and type F4 has 2 bytes", id="half a byte"),
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


@pytest.mark.parametrize(
    "shape", [(0, 2**63), (0, 10**30), (False,), (True,), (2**40, 2**40), (0, 2**40, 2**40), (1,) * 33], ids=str
)
def test_a_shape_that_torch_cannot_hold_is_refused(shape, copy):
    size = 4 * math.prod(shape) if math.prod(shape) < 9 else 0
    write_raw(copy / "model.safetensors", {"a": entry(0, size, shape)}, bytes(size))
    assert "has the shape" in refusal_of(copy)


@pytest.mark.parametrize("offsets", [[False, 4], [0, True]])
def test_an_offset_that_is_no_number_is_refused(offsets, copy):
    write_raw(copy / "model.safetensors", {"a": {**entry(0, 4), "data_offsets": offsets}}, bytes(4))
    assert "'a' of shape [1]" in refusal_of(copy)


@pytest.mark.parametrize("metadata", [3, [], {"format": 3}, {"format": None}])
def test_metadata_that_are_not_text_are_refused(metadata, copy):
    write_raw(copy / "model.safetensors", {"__metadata__": metadata, "a": entry(0, 4)}, bytes(4))
    assert "metadata that are not text" in refusal_of(copy)


@pytest.mark.parametrize(
    ("text", "fault"), [("[]", "not a JSON object"), ("null", "not a JSON object"), ("{", "damag")]
)
def test_a_config_that_is_no_object_is_refused(text, fault, copy):
    (copy / "config.json").write_text(text)
    assert fault in refusal_of(copy)


def test_a_repeated_name_in_the_index_is_refused(copy_of_shards):
    index = copy_of_shards / "model.safetensors.index.json"
    (name, shard), *_ = json.loads(index.read_text())["weight_map"].items()
    index.write_text(index.read_text().replace(f'"{name}"', f'"{name}": "{shard}", "{name}"'))
    assert "repeats a name" in refusal_of(copy_of_shards)


def test_a_tensor_that_the_index_does_not_list_is_named(copy_of_shards):
    index = copy_of_shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name, _ = content["weight_map"].popitem()
    index.write_text(json.dumps(content))
    assert f"does not list {name!r}" in refusal_of(copy_of_shards)


def test_a_pipe_in_the_place_of_weights_is_refused_without_waiting_for_it(copy):
    checkpoint = Checkpoint.open(copy)
    (copy / "model.safetensors").unlink()
    os.mkfifo(copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        checkpoint.fingerprint()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_experts", 10**9),
        ("vocab_size", 10**9),
        ("intermediate_size", 10**30),
        ("text_config", {"num_hidden_layers": 10**9}),
    ],
)
def test_a_config_that_describes_more_than_the_weights_is_refused_before_a_model_is_built(name, value, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(CheckpointError, match="describes another model"):
        load_config_and_tokenizer(Checkpoint.open(copy), ModelChoice(str(copy)))


@pytest.mark.parametrize("layers", [0, -1])
def test_a_config_without_a_layer_is_refused(layers, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers .* must be 1 or more"):
        load_config_and_tokenizer(Checkpoint.open(copy), ModelChoice(str(copy)))


def test_a_file_beside_the_weights_that_is_too_large_is_refused(copy):
    os.truncate(copy / "tokenizer.json", 1 << 40)
    with pytest.raises(CheckpointError, match="belongs to no tokenizer"):
        load_config_and_tokenizer(Checkpoint.open(copy), ModelChoice(str(copy)))

"""One tensor in several shards, of which the index names one."""

import pytest
import torch
from _checkpoints import FakeScores, parsed
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from unipruning_core.errors import CheckpointError
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

NAME = "model.layers.1.mlp.up_proj.weight"


def copied(folder, place, change=lambda tensor: tensor):
    """Put a tensor into the first or the last shard too."""
    checkpoint = Checkpoint.open(folder)
    home = checkpoint.tensors[NAME].file
    other = [shard for shard in checkpoint.shards if shard != home][place]
    tensors = load_file(other)
    tensors[NAME] = change(checkpoint.read(NAME))
    save_file(tensors, other, {"format": "pt"})
    return home, other


@pytest.mark.parametrize("place", [0, -1], ids=["before", "after"])
def test_the_index_decides_and_all_copies_are_pruned(copy_of_shards, tmp_path, place):
    before = Checkpoint.open(copy_of_shards)
    fingerprint = before.fingerprint()
    home, other = copied(copy_of_shards, place)
    checkpoint = Checkpoint.open(copy_of_shards)
    assert checkpoint.tensors[NAME].file == home
    assert set(checkpoint.tensors) == set(before.tensors)
    assert checkpoint.fingerprint() == fingerprint
    project(checkpoint, FakeScores(checkpoint), parsed("50%"), tmp_path / "out", CpuBackend())
    one, two = (load_file(tmp_path / "out" / shard.name)[NAME] for shard in (home, other))
    assert torch.equal(one, two)
    assert int((one == 0).sum()) == one.numel() // 2
    # which of the shards transformers reads last does not matter
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_parameter(NAME), one)


@pytest.mark.parametrize(
    "change",
    [lambda tensor: tensor * 2, lambda tensor: tensor.float(), lambda tensor: tensor[:-1], lambda tensor: tensor.T],
    ids=["values", "dtype", "shape", "transposed"],
)
def test_copies_that_differ_are_refused(copy_of_shards, change):
    home, other = copied(copy_of_shards, -1, lambda tensor: change(tensor).contiguous())
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(copy_of_shards)
    message = str(caught.value)
    assert f"tensor {NAME!r} is in {home.name!r}, as " in message
    assert message.endswith(f"and with other values in {other.name!r}; keep only one")


def test_a_last_byte_that_differs_is_noticed(copy_of_shards):
    _, other = copied(copy_of_shards, -1)
    info = Checkpoint.open(copy_of_shards).copies[NAME][0]
    with other.open("r+b") as file:
        file.seek(info.end - 1)
        last = file.read(1)[0]
        file.seek(info.end - 1)
        file.write(bytes([last ^ 1]))
    with pytest.raises(CheckpointError, match="with other values"):
        Checkpoint.open(copy_of_shards)

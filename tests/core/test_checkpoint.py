"""Reading a model folder: what is found, and every way of being no model or a damaged one."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from _checkpoints import save_gpt2
from safetensors import safe_open
from safetensors.torch import save_file

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress, Task
from unipruning_core.storage.checkpoint import Checkpoint, Target


@pytest.mark.parametrize("fixture", ["single", "sharded"])
def test_every_tensor_is_read_as_the_safetensors_library_reads_it(fixture, request):
    folder = request.getfixturevalue(fixture)
    checkpoint = Checkpoint.open(folder)
    assert (len(checkpoint.shards) > 2) == (fixture == "sharded")
    names = set()
    for shard in checkpoint.shards:
        with safe_open(shard, framework="pt") as theirs:
            for name in theirs.keys():  # noqa: SIM118 -- not a dict
                names.add(name)
                expected, got = theirs.get_tensor(name), checkpoint.read(name)
                assert got.dtype == expected.dtype == checkpoint.tensors[name].dtype == torch.bfloat16
                assert torch.equal(got, expected)
    assert names == set(checkpoint.tensors)
    assert checkpoint.total_bytes == sum(2 * checkpoint.read(name).numel() for name in names)


@pytest.mark.parametrize(
    "dtype",
    [getattr(torch, f"float{bits}") for bits in ("64", "32", "16", "8_e4m3fn", "8_e5m2")]
    + [torch.bfloat16, torch.int64, torch.uint16, torch.uint8, torch.bool],
    ids=str,
)
def test_every_dtype_and_shape_comes_back(dtype, copy):
    tensors = {"scalar": torch.ones(()), "empty": torch.ones(0, 3), "cube": torch.arange(24).reshape(2, 3, 4) % 2}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(tensors, copy / "model.safetensors")
    checkpoint = Checkpoint.open(copy)
    for name, tensor in tensors.items():
        got = checkpoint.read(name)
        assert got.dtype == dtype
        assert got.shape == tensor.shape
        assert got.tolist() == tensor.tolist()


def test_tensors_come_in_the_order_of_their_bytes(sharded):
    infos = list(Checkpoint.open(sharded).tensors.values())
    assert [(info.file, info.start) for info in infos] == sorted((info.file, info.start) for info in infos)


def test_a_target_knows_the_shape_in_the_file(tmp_path):
    checkpoint = Checkpoint.open(save_gpt2(tmp_path))
    target = Target("transformer.h.0.attn.c_attn.weight", (72, 24), transposed=True)
    assert checkpoint.tensors[target.name].shape == target.stored_shape == (24, 72)
    assert Target("any", (3, 5)).stored_shape == (3, 5)


def test_the_fingerprint_does_not_depend_on_the_division_into_shards(single, sharded):
    assert Checkpoint.open(single).fingerprint() == Checkpoint.open(sharded).fingerprint()


@pytest.mark.parametrize("change", ["first value", "middle value", "last value", "name", "dtype", "shape"])
def test_the_fingerprint_tells_models_apart(change, copy):
    def fingerprint(tensors):
        save_file(tensors, copy / "model.safetensors")
        return Checkpoint.open(copy).fingerprint()

    weight = torch.zeros(200, 200, dtype=torch.int16)
    before = fingerprint({"w": weight})
    changed = weight.clone()
    position = {"first value": 0, "middle value": 20_000, "last value": -1}
    if change in position:
        changed.view(-1)[position[change]] = 1
    changed = {"dtype": changed.half(), "shape": changed.reshape(100, 400)}.get(change, changed)
    assert fingerprint({"v" if change == "name" else "w": changed}) != before


def test_finite_weights_pass_and_are_counted(single):
    class Counting(Task):
        def __init__(self):
            self.done = 0

        def advance(self, amount=1, **shown):
            self.done += amount

    class Watching(Progress):
        def task(self, label, total, unit, done=0):
            from contextlib import nullcontext

            self.opened, self.total = Counting(), total
            return nullcontext(self.opened)

    checkpoint, progress = Checkpoint.open(single), Watching()
    checkpoint.check_finite(checkpoint.tensors, progress)
    size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert progress.opened.done == progress.total == size > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_first_tensor_that_is_not_finite_is_named(dtype, copy):
    bad = torch.ones(5, 5)
    bad[1, 2] = bad[3, 3] = torch.nan
    save_file({"good": torch.ones(3, 3).to(dtype), "bad": bad.to(dtype)}, copy / "model.safetensors")
    checkpoint = Checkpoint.open(copy)
    checkpoint.check_finite(["good"])
    with pytest.raises(CheckpointError, match="'bad' holds 2 values of 25"):
        checkpoint.check_finite(["good", "bad"])


def test_a_large_tensor_is_looked_at_in_pieces(copy, monkeypatch):
    sizes, real = [], torch.isfinite

    def isfinite(tensor):
        sizes.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr("unipruning_core.storage.checkpoint.PIECE", 8)
    monkeypatch.setattr(torch, "isfinite", isfinite)
    values = torch.ones(4, 5)
    save_file({"good": values, "last": values.index_fill(1, torch.tensor([4]), torch.nan)}, copy / "model.safetensors")
    checkpoint = Checkpoint.open(copy)
    checkpoint.check_finite(["good"])
    assert sizes == [8, 8, 4]
    with pytest.raises(CheckpointError, match=r"'last' holds 4 values of 20 .* in 4 of its 4 rows"):
        checkpoint.check_finite(["last"])


def test_infinity_is_not_finite(copy):
    save_file({"w": torch.tensor([1.0, -torch.inf])}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="'w' holds 1 values of 2"):
        Checkpoint.open(copy).check_finite(["w"])


def test_everything_but_weights_is_copied_and_the_rest_is_explained(copy_of_shards):
    extra = [
        "README.md",
        "vocab.txt",
        "sub/chat.jinja",
        "pytorch_model.bin",
        "x.PT",
        "old.pth",
        "tf_model.h5",
        "flax.msgpack",
    ]
    extra += ["q4.gguf", "onnx/model.onnx", "onnx/model.onnx_data", "masks.safetensors", "pytorch_model.bin.index.json"]
    extra += [
        ".git/HEAD",
        ".cache/huggingface/x.lock",
        "sub/model-00001-of-00002.safetensors",
        "code.py",
        "spk_dict.pt",
    ]
    for name in extra:
        (copy_of_shards / name).parent.mkdir(exist_ok=True, parents=True)
        (copy_of_shards / name).write_text("x")
    (copy_of_shards / "dangling").symlink_to("nowhere")
    (copy_of_shards / "linked").symlink_to("sub")
    (copy_of_shards / "aside.txt").symlink_to("README.md")
    copied, left_out = Checkpoint.open(copy_of_shards).files_to_copy()
    assert {path.as_posix() for path in copied} == {
        "README.md", "vocab.txt", "sub/chat.jinja", "code.py", "aside.txt", "config.json", "generation_config.json",
        "tokenizer.json", "model.safetensors.index.json", "spk_dict.pt",
    }  # fmt: skip
    assert left_out.keys() == {
        "pytorch_model.bin", "x.PT", "old.pth", "tf_model.h5", "flax.msgpack", "q4.gguf", "onnx/model.onnx",
        "onnx/model.onnx_data", "masks.safetensors", "pytorch_model.bin.index.json", ".git/", ".cache/",
        "sub/model-00001-of-00002.safetensors", "dangling", "linked/",
    }  # fmt: skip
    assert left_out["pytorch_model.bin"] == "pickled weights"
    assert left_out["linked/"] == "a link to a folder"


def test_a_single_file_wins_over_an_index_as_it_does_in_transformers(copy, sharded):
    for path in sharded.glob("model*"):
        shutil.copy(path, copy)
    checkpoint = Checkpoint.open(copy)
    assert [shard.name for shard in checkpoint.shards] == ["model.safetensors"]
    copied, left_out = checkpoint.files_to_copy()
    assert {"model.safetensors.index.json", "model-00001-of-00005.safetensors"} - left_out.keys() <= {
        "model-00001-of-00005.safetensors"
    }
    assert not any(path.name.startswith("model") for path in copied)


def test_the_digests_of_a_search_are_those_of_the_bytes_in_the_file(single):
    checkpoint = Checkpoint.open(single)
    first, second, *_ = checkpoint.tensors
    digested = [Target(name, checkpoint.tensors[name].shape) for name in (first, second)]
    found = checkpoint.check_finite(checkpoint.tensors, digested=digested)
    content = checkpoint.shards[0].read_bytes()
    infos = (checkpoint.tensors[first], checkpoint.tensors[second])
    assert list(found.values()) == [hashlib.sha256(content[info.start : info.end]).hexdigest() for info in infos]

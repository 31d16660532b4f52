"""Reading a model folder: what is found, and every way of being no model or a damaged one."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from _checkpoints import save_gpt2, save_llama, write_raw
from safetensors import safe_open
from safetensors.torch import save_file

from unipruning_core.checkpoint import Checkpoint, Target
from unipruning_core.errors import CheckpointError
from unipruning_core.hub import resolve_model
from unipruning_core.progress import Progress, Task


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("sharded"), shards=True)


@pytest.fixture
def copy(single, tmp_path):
    """A folder to damage."""
    return shutil.copytree(single, tmp_path / "copy")


@pytest.fixture
def copy_of_shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "copy")


def refusal_of(folder):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


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
    assert progress.opened.done == progress.total == len(checkpoint.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_first_tensor_that_is_not_finite_is_named(dtype, copy):
    bad = torch.ones(5, 5)
    bad[1, 2] = bad[3, 3] = torch.nan
    save_file({"good": torch.ones(3, 3).to(dtype), "bad": bad.to(dtype)}, copy / "model.safetensors")
    checkpoint = Checkpoint.open(copy)
    checkpoint.check_finite(["good"])
    with pytest.raises(CheckpointError, match="'bad' holds 2 values of 25"):
        checkpoint.check_finite(["good", "bad"])


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
    extra += [".git/HEAD", ".cache/huggingface/x.lock", "sub/model-00001-of-00002.safetensors", "code.py"]
    for name in extra:
        (copy_of_shards / name).parent.mkdir(exist_ok=True, parents=True)
        (copy_of_shards / name).write_text("x")
    (copy_of_shards / "dangling").symlink_to("nowhere")
    (copy_of_shards / "linked").symlink_to("sub")
    (copy_of_shards / "aside.txt").symlink_to("README.md")
    copied, left_out = Checkpoint.open(copy_of_shards).files_to_copy()
    assert {path.as_posix() for path in copied} == {
        "README.md", "vocab.txt", "sub/chat.jinja", "code.py", "aside.txt", "config.json", "generation_config.json",
        "tokenizer.json", "model.safetensors.index.json",
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
        "pickled weights only ('pytorch_model.bin')" in message or "pickled weights only (pytorch_model.bin)" in message
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
        pytest.param({"a": entry(0, 4, dtype="F33")}, 4, "of type 'F33'", id="unknown type"),
        pytest.param({"a": {"dtype": "F32"}}, 0, "lacks its dtype, shape or data_offsets", id="entry cut short"),
        pytest.param({"a": 3}, 0, "lacks its dtype, shape or data_offsets", id="entry that is a number"),
        pytest.param([], 0, "not a JSON object", id="list"),
        pytest.param(b"{", 0, "damaged", id="bad JSON"),
        pytest.param(b"\xff\xfe", 0, "damaged", id="bad UTF-8"),
        pytest.param(b"[" * 100_000, 0, "damaged", id="bottomless JSON"),
        pytest.param(b'{"a": 1, "a": 2}', 0, "names something twice", id="name twice"),
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


def test_a_local_folder_is_the_model_it_is(single, monkeypatch):
    assert resolve_model(str(single)) == single
    monkeypatch.chdir(single.parent)
    assert resolve_model(single.name).samefile(single)


@pytest.mark.parametrize(
    "model", ["/no/such/folder", "./model", "../model", "~/no-such-model", "a/b/c", "model/", "", "a b", "~nobody/x"]
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_model(model)


def test_a_file_is_not_taken_for_a_model(single):
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        resolve_model(str(single / "model.safetensors"))


@pytest.mark.parametrize("trust", [False, True])
def test_code_is_downloaded_only_when_it_is_trusted(trust, monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(model, **options):
        asked.update(options, model=model)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_model("owner/name", trust_remote_code=trust, revision="main") == tmp_path
    assert ("*.py" in asked["allow_patterns"]) is trust
    assert "*.bin" not in asked["allow_patterns"]
    assert (asked["model"], asked["revision"]) == ("owner/name", "main")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("GatedRepoError", "accept its terms"),
        ("RepositoryNotFoundError", "neither a folder here nor a public name"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("LocalEntryNotFoundError", "go online once"),
        ("OfflineModeIsEnabled", "cannot be downloaded"),
        ("HFValidationError", "cannot be downloaded"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error, words, monkeypatch):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)
    raised = kind.__new__(kind)  # some constructors want a whole HTTP response
    raised.args = ("two\nlines",)

    def snapshot_download(model, **options):
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=words) as caught:
        resolve_model("owner/name", revision="v9")
    assert "\n" not in str(caught.value)

"""Saved states: what is restored is what was saved, to the bit, or the search says that it is not."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from unipruning_core.errors import RunError
from unipruning_core.search.resume import STATE_FILE, TENSOR_FILE, Resume
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.files import sha256

IDENTITY = {"settings": {"mode": "drift"}, "data": {"samples": 5}}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.dual": torch.randn(3, 8, generator=generator),
        "a.moment": torch.randn(3, 8, generator=generator).bfloat16(),
        "steps": torch.tensor([seed], dtype=torch.int64),
    }


@pytest.fixture
def resume(tmp_path):
    resume = Resume(tmp_path, IDENTITY)
    resume.save(3, tensors(3), [0.5, 0.25, 0.125])
    return resume


def state(folder):
    (found,) = folder.glob("**/resume-00000003")
    return found


def described(folder):
    return json.loads((state(folder) / STATE_FILE).read_text())


def describe(folder, content):
    (state(folder) / STATE_FILE).write_text(json.dumps(content))


def test_a_state_comes_back(resume):
    found = resume.found(5)
    assert (found["sample"], found["losses"]) == (3, [0.5, 0.25, 0.125])
    held = tensors()
    resume.restore(held)
    assert all(torch.equal(held[name], tensor) for name, tensor in tensors(3).items())
    assert resume.notes == []


def test_a_flipped_bit_anywhere_is_noticed(resume, tmp_path):
    for name in (STATE_FILE, TENSOR_FILE):
        path = state(tmp_path) / name
        original = path.read_bytes()
        for position in range(0, len(original), 3):
            changed = bytearray(original)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            with pytest.raises(RunError, match=r"is damaged \(.*\); start again with --overwrite"):
                Resume(tmp_path, IDENTITY).found(5)
        path.write_bytes(original)
    assert Resume(tmp_path, IDENTITY).found(5)


@pytest.mark.parametrize("name", [STATE_FILE, TENSOR_FILE])
def test_a_file_that_is_missing_or_cut_is_noticed(resume, tmp_path, name):
    path = state(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)
    path.unlink()
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)


@pytest.mark.parametrize(
    "changed",
    [
        *({"sample": value} for value in (0, -1, 6, 10**30, 2.0, True, None, "3", [3])),
        *({"losses": value} for value in (None, {}, "x", [1], [True], [None], [0.1] * 4)),
        *({"identity": value} for value in (None, [], "x")),
        *({"format": value} for value in (None, "unipruning-state/99", 1)),
        *({"files": value} for value in (None, {}, [], "0" * 64, {"state.safetensors": "0" * 64})),
        *(
            {"files": {name: "0" * 64}}
            for name in ("../state.safetensors", "/dev/zero", "state.json", "state-1.safetensors")
        ),
        *({"files": {"state.safetensors": value}} for value in (None, 3, "0")),
    ],
    ids=str,
)
def test_a_state_that_no_search_saved_is_refused_even_with_a_right_checksum(resume, tmp_path, changed):
    content = {**described(tmp_path), **changed}
    del content["checksum"]
    describe(tmp_path, sealed(content))
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)


@pytest.mark.parametrize("key", ["format", "sample", "losses", "identity", "files", "checksum"])
def test_a_state_that_lacks_a_part_is_refused(resume, tmp_path, key):
    content = described(tmp_path)
    del content[key]
    describe(tmp_path, content)
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)
    del content["checksum" if key != "checksum" else "format"]
    describe(tmp_path, sealed(content))
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("a.dual", torch.zeros(1, 8)),
        ("a.dual", torch.zeros(3, 8, dtype=torch.int8)),
        ("a.dual", torch.zeros(24)),
        ("a.moment", torch.zeros(3, 8)),
        ("a.dual", None),
        ("more", torch.zeros(1)),
    ],
)
def test_a_state_of_other_tensors_is_not_restored(tmp_path, name, other):
    saved = tensors(3)
    saved.pop(name, None)
    Resume(tmp_path, IDENTITY).save(3, saved if other is None else {**saved, name: other}, [])
    resume, held = Resume(tmp_path, IDENTITY), tensors()
    assert resume.found(5)
    with pytest.raises(RunError, match=rf"is damaged \('{name}' is .*, not .*\); start again"):
        resume.restore(held)
    assert all(torch.equal(held[name], tensor) for name, tensor in tensors().items())


def test_an_older_whole_state_serves_where_the_newest_is_damaged(resume, tmp_path):
    resume.save(4, tensors(4), [0.5] * 4)
    newest = tmp_path / "resume-00000004"
    (newest / TENSOR_FILE).write_bytes(bytes(9))
    again = Resume(tmp_path, IDENTITY)
    assert again.found(5)["sample"] == 3
    assert "resume-00000004' is damaged" in again.notes[0]
    assert again.notes[0].endswith("going on from an older one")
    held = tensors()
    again.restore(held)
    assert torch.equal(held["a.dual"], tensors(3)["a.dual"])
    again.save(4, tensors(4), [0.5] * 4)
    fresh = Resume(tmp_path, IDENTITY)
    assert fresh.found(5)["sample"] == 4
    assert fresh.notes == []


def test_the_newest_two_states_are_kept(tmp_path):
    resume, kept = Resume(tmp_path, IDENTITY), []
    for sample in range(1, 5):
        resume.save(sample, tensors(sample), [])
        kept.append(sorted(int(path.name[-8:]) for path in tmp_path.iterdir()))
    assert kept == [[1], [1, 2], [2, 3], [3, 4]]


@pytest.mark.parametrize(
    ("damaged", "saved", "kept"),
    [([5], 4, [3, 4]), ([5], 5, [3, 5]), ([5], 6, [3, 6]), ([], 6, [5, 6]), ([3], 6, [5, 6])],
)
def test_what_was_found_damaged_is_not_one_of_the_two(resume, tmp_path, damaged, saved, kept):
    resume.save(5, tensors(5), [])
    for sample in damaged:
        (tmp_path / f"resume-{sample:08d}" / STATE_FILE).write_text("{")
    again = Resume(tmp_path, IDENTITY)
    assert again.found(9)["sample"] == (3 if 5 in damaged else 5)
    again.save(saved, tensors(saved), [])
    assert sorted(int(path.name[-8:]) for path in tmp_path.iterdir()) == kept
    again.save(8, tensors(8), [])
    assert sorted(int(path.name[-8:]) for path in tmp_path.iterdir()) == [saved, 8]
    fresh = Resume(tmp_path, IDENTITY)
    assert fresh.found(9)["sample"] == 8
    assert fresh.notes == []


def test_a_state_that_cannot_be_removed_does_not_undo_the_save(tmp_path, monkeypatch):
    resume = Resume(tmp_path, IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", lambda *_, **__: os.stat(tmp_path / "none"))
        for sample in range(1, 5):
            resume.save(sample, tensors(sample), [])
        assert resume.found(5)["sample"] == 4
    resume.save(5, tensors(5), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resume-00000004", "resume-00000005"]


def several(folder, parts):
    """Lay the tensors of the state in several files, as several ranks write them."""
    content = described(folder)
    (state(folder) / TENSOR_FILE).unlink()
    names = [f"state-{part:05d}-of-{len(parts):05d}.safetensors" for part in range(len(parts))]
    for name, held in zip(names, parts, strict=True):
        save_file(held, state(folder) / name)
    del content["checksum"]
    content["files"] = {name: sha256(state(folder) / name) for name in names}
    describe(folder, sealed(content))
    return names


def test_a_state_may_be_of_several_files(resume, tmp_path):
    saved = tensors(3)
    last = saved.pop("steps")
    names = several(tmp_path, [saved, {"steps": last}])
    assert resume.found(5)["sample"] == 3
    held = tensors()
    resume.restore(held)
    assert all(torch.equal(held[name], tensor) for name, tensor in tensors(3).items())
    (state(tmp_path) / names[1]).unlink()
    with pytest.raises(RunError, match="is damaged"):
        resume.found(5)


def test_a_state_of_which_two_files_hold_the_same_is_not_restored(resume, tmp_path):
    several(tmp_path, [tensors(3), {"steps": tensors(3)["steps"]}])
    assert resume.found(5)
    with pytest.raises(RunError, match="is damaged \\('steps' is in 2 parts that do not follow each other"):
        resume.restore(tensors())


def test_a_pipe_in_the_place_of_a_state_is_refused_without_waiting(resume, tmp_path):
    path = state(tmp_path) / TENSOR_FILE
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="not a regular file"):
        resume.found(5)

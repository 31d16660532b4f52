"""JSON that is read back: what is not a bounded, unambiguous document in a regular file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unipruning_core.storage import documents
from unipruning_core.storage.documents import parse_json, read_json, sealed, unsealed

FAULTS = [
    (b"\xff", "utf-8"),
    (b"", "Expecting value"),
    (b'{"a": NaN}', "NaN is not JSON"),
    (b"[-Infinity]", "-Infinity is not JSON"),
    (b"[1e400]", "out of range"),
    (b"9" * 101, "101 digits"),
    (b"9" * 5000, "5000 digits"),
    (b"1." + b"9" * 5000, "5002 digits"),
    (b'{"a": 1, "a": 1}', "repeats a name"),
    (rb'["\ud800"]', "surrogates not allowed"),
    (rb'{"\udfff": 1}', "surrogates not allowed"),
    (b"[" * 65 + b"]" * 65, "more than 64 levels"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 levels"),
    (b"[" * 100_000, "more than 64 levels"),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[repr(text[:12]) for text, _ in FAULTS])
def test_a_document_that_two_readers_could_read_differently_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_json(text)


def test_a_document_of_another_program_may_hold_what_json_does_not_know():
    assert parse_json(b'{"limit": [0, Infinity], "a": 1, "a": 2, "b": 1e400}', strict=False) == {
        "limit": [0, float("inf")],
        "a": 2,
        "b": float("inf"),
    }


def test_the_deepest_document_is_read():
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_too_many_containers_are_refused_before_they_take_memory(monkeypatch):
    monkeypatch.setattr(documents, "MOST_CONTAINERS", 3)
    assert parse_json(b"[[],[]]") == [[], []]
    with pytest.raises(ValueError, match="more than 3 arrays and objects"):
        parse_json(b"[[],[],[]]")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    path.write_text("[]")
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match="more than 67108864 bytes"):
        read_json(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_a_regular_file_is_read(kind, tmp_path):
    path = tmp_path / "other"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(path)


def test_a_file_without_an_end_that_calls_itself_empty_is_bounded(monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 8)
    with pytest.raises(ValueError, match="more than 8 bytes"):
        read_json(Path("/proc/self/environ"))


def test_a_seal_shows_any_change():
    content = sealed({"a": [1, 2.5], "b": {"c": None}})
    assert unsealed(content) == {"a": [1, 2.5], "b": {"c": None}}
    for changed in ({**content, "a": [1, 2.0]}, {**content, "d": 1}, {**content, "checksum": "0" * 64}):
        with pytest.raises(ValueError, match="its checksum is"):
            unsealed(changed)
    for checksum in (None, 3, {}):
        with pytest.raises(ValueError, match="it has no checksum"):
            unsealed({**content, "checksum": checksum})

"""Every reader that no checksum protects, given anything: a value comes out, or one sentence, and soon."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from _checkpoints import FakeScores, parsed, save_home
from _drawn import damaged, damages, edited, in_place_of, places, quick, values, words
from _texts import ROWS, lines
from hypothesis import given
from hypothesis import strategies as st

from unipruning_core.data.text import load_text
from unipruning_core.errors import UnipruningError
from unipruning_core.models.loading import ModelChoice, load_config_and_tokenizer
from unipruning_core.models.outline import outline
from unipruning_core.projection.project import project
from unipruning_core.projection.report import found_report
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.documents import sealed, unsealed
from unipruning_core.storage.ownership import LOCK, MARKER, is_marked, locked
from unipruning_core.storage.staging import OLD, PLACING, WHOLE, working
from unipruning_cpu.backend import CpuBackend

CHAT = [{"messages": [{"role": "user", "content": "one fish"}, {"role": "assistant", "content": "two fish"}]}] * 2
IDS = [{"input_ids": [3, 4, 5], "attention_mask": [1, 1, 0]}] * 2
CELLS = 'text,number\none fish,1\n"two\nfish",2\n'


def of_text(path: Path) -> None:
    """Read a text in full, as a tokenizer would."""
    assert all(isinstance(document, str | tuple | list) or document for document in load_text(str(path)).documents)


def of_model(path: Path) -> None:
    folder = path.parent
    load_config_and_tokenizer(Checkpoint.open(folder), ModelChoice(str(folder)))


READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(
        ("t/a.txt", "t/a.jsonl", "t/chat.jsonl", "t/ids.jsonl", "t/a.json", "t/a.csv", "t/a.tsv", "t/a.parquet"),
        of_text,
    ),
    **dict.fromkeys(("t/a.txt.gz", "t/a.jsonl.bz2", "t/a.csv.xz", "t/a.txt.zst"), of_text),
    "model/config.json": of_model,
    "model/tokenizer.json": of_model,
    "model/tokenizer_config.json": of_model,
    "splits/dataset_dict.json": lambda path: of_text(path.parent),
    "splits/train/state.json": lambda path: of_text(path.parents[1]),
    "splits/train/dataset_info.json": lambda path: of_text(path.parents[1]),
    "splits/train/data-00000-of-00001.arrow": lambda path: of_text(path.parents[1]),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A file of every kind."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("originals")
    save_home(folder)
    (folder / "t").mkdir()
    plain = b"one fish, two fish\n" * 9
    contents = {
        "a.txt": plain,
        "a.jsonl": lines(*ROWS).encode(),
        "chat.jsonl": lines(*CHAT).encode(),
        "ids.jsonl": lines(*IDS).encode(),
        "a.json": json.dumps(ROWS).encode(),
        "a.csv": CELLS.encode(),
        "a.tsv": CELLS.replace(",", "\t").encode(),
        "a.txt.gz": gzip.compress(plain, mtime=0),
        "a.jsonl.bz2": bz2.compress(lines(*ROWS).encode()),
        "a.csv.xz": lzma.compress(CELLS.encode()),
        "a.txt.zst": pyarrow.compress(plain, codec="zstd", asbytes=True),
    }
    for name, content in contents.items():
        (folder / "t" / name).write_bytes(content)
    parquet.write_table(pyarrow.table({"text": ["one fish", "two fish"]}), folder / "t" / "a.parquet")
    saved = datasets.Dataset.from_dict({"text": ["one fish", "two fish"]})
    datasets.DatasetDict({"train": saved}).save_to_disk(folder / "splits")
    return folder


@pytest.fixture(params=READERS)
def reader(request, originals):
    """A file, as it was written, and who reads it."""
    return originals / request.param, READERS[request.param]


def one_sentence_or_nothing(read: Callable[[Path], object], path: Path) -> None:
    """Read; any other exception than one of ours, with one sentence, fails the test."""
    sentence = "a value, so that there is no sentence"
    try:
        read(path)
    except UnipruningError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert 20 < len(sentence) < 2000


@quick
@given(damages)
def test_a_damaged_file_is_read_or_refused(reader, damage):
    path, read = reader
    original = in_place_of(path, damaged(path.read_bytes(), damage))
    try:
        one_sentence_or_nothing(read, path)
    finally:
        path.write_bytes(original)


@quick
@given(st.binary(max_size=64))
def test_a_file_of_anything_is_read_or_refused(reader, content):
    path, read = reader
    original = in_place_of(path, content)
    try:
        one_sentence_or_nothing(read, path)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json") and name[0] != "t"])
@quick
@given(places, values)
def test_a_document_with_another_value_is_read_or_refused(originals, name, where, value):
    path = originals / name
    original = in_place_of(path, json.dumps(edited(json.loads(path.read_bytes()), where, value)).encode())
    try:
        one_sentence_or_nothing(READERS[name], path)
    finally:
        path.write_bytes(original)


@quick
@given(places, values)
def test_a_config_alone_is_read_or_refused(originals, where, value):
    path = originals / "model" / "config.json"
    original = in_place_of(path, json.dumps(edited(json.loads(path.read_bytes()), where, value)).encode())
    try:
        one_sentence_or_nothing(lambda path: outline(str(path)), path)
    finally:
        path.write_bytes(original)


def test_a_saved_data_set_shows_nothing_beyond_its_strings(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["one fish", "two fish"]}).save_to_disk(tmp_path / "saved")
    path = next((tmp_path / "saved").glob("*.arrow"))
    content = path.read_bytes()
    offsets, beyond = struct.pack("<3i", 0, 8, 16), struct.pack("<3i", 0, 8, 64)
    assert content.count(offsets) == 1
    path.unlink()  # it is mapped
    path.write_bytes(content.replace(offsets, beyond))
    with pytest.raises(UnipruningError, match=r"is not a readable data set: .* offset"):
        load_text(str(tmp_path / "saved"))


rows = st.lists(
    st.dictionaries(st.sampled_from(["text", "messages", "input_ids", "a"]), values, max_size=3), max_size=4
)


@quick
@given(rows)
def test_rows_of_anything_are_read_or_refused(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*content))
    one_sentence_or_nothing(of_text, path)
    (tmp_path / "rows.json").write_text(json.dumps(content))
    one_sentence_or_nothing(of_text, tmp_path / "rows.json")


@quick
@given(st.one_of(values.map(json.dumps).map(str.encode), st.binary(max_size=40)))
def test_a_lock_or_a_marker_of_anything_belongs_to_nobody(tmp_path, content):
    (tmp_path / MARKER).write_bytes(content)
    assert is_marked(tmp_path, "run") is (content == b"")
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path / LOCK, tmp_path):
        assert (tmp_path / LOCK).exists()


@quick
@given(st.one_of(values, st.fixed_dictionaries({"files": st.lists(st.one_of(words, st.just("../kept")), max_size=3)})))
def test_no_record_of_a_killed_command_removes_what_is_not_in_its_folder(tmp_path, record):
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    (tmp_path / "kept").write_text("theirs")
    with working(out / "unfinished", out, "run", last=()) as work:
        work.start().joinpath("result").write_text("ours")
        (work.folder / "new").rename(work.folder / WHOLE)
        (work.folder / OLD).write_text(json.dumps(record))
    try:
        with working(out / "unfinished", out, "run", last=()):
            assert (out / "result").read_text() == "ours"
    except (UnipruningError, OSError, ValueError):  # the caller says the last two in one sentence
        assert not (out / "unfinished" / PLACING).exists()
    assert (tmp_path / "kept").read_text() == "theirs"


@pytest.fixture(scope="module")
def finished_report(single, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "pruned"
    checkpoint = Checkpoint.open(single)
    project(checkpoint, FakeScores(checkpoint), parsed("2:4"), out, CpuBackend())
    return out


@quick
@given(places, values)
def test_a_report_with_another_value_is_read_or_none(finished_report, where, value):
    path = finished_report / "unipruning.json"
    content = edited(unsealed(json.loads(path.read_bytes())), where, value)
    original = in_place_of(path, json.dumps(sealed(content)).encode())
    try:
        report = found_report(finished_report)
        assert report is None or report["matrices"].keys() == content["matrices"].keys()
    finally:
        path.write_bytes(original)

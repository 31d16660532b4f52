"""Local files of text: which documents they hold, and the messages about those that hold none."""

from __future__ import annotations

import errno
import hashlib
import json
import tracemalloc
from pathlib import Path

import datasets
import pyarrow
import pytest
from _texts import ROWS, lines, write
from pyarrow import parquet

from unipruning_core.data.text import load_text
from unipruning_core.errors import DataError


def test_the_rows_of_a_jsonl_file_keep_their_order_and_their_blanks(tmp_path):
    content = lines(*ROWS)
    loaded = load_text(write(tmp_path / "a.jsonl", content))
    assert loaded.documents == ("one fish", "", "two\nfish")
    assert loaded.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_a_json_file_is_a_list_of_rows(tmp_path):
    assert load_text(write(tmp_path / "a.json", json.dumps(ROWS))).documents == ("one fish", "", "two\nfish")


def test_the_rows_of_a_parquet_file_are_documents(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert load_text(str(tmp_path / "a.parquet")).documents == ("one fish", "", "two\nfish")


def test_a_json_file_may_be_lines_or_a_list_of_texts(tmp_path):
    assert load_text(write(tmp_path / "a.json", lines(*ROWS))).documents == ("one fish", "", "two\nfish")
    assert load_text(write(tmp_path / "b.json", ' \n["one", "two"]')).documents == ("one", "two")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_a_parquet_file_may_store_its_strings_in_any_layout(tmp_path, kind):
    layout = pyarrow.dictionary(pyarrow.int8(), pyarrow.string()) if kind == "dictionary" else getattr(pyarrow, kind)()
    table = pyarrow.table({"id": [1, 2], "body": pyarrow.array(["one", "two"]).cast(layout)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert load_text(str(tmp_path / "a.parquet")).documents == ("one", "two")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one fish"),
        ("a.jsonl", '{"text": "one fish"}\n'),
        ("a.json", '[{"text": "one fish"}]'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, content):
    marked = load_text(write(tmp_path / name, f"\ufeff{content}"))
    assert marked.documents == ("one fish",)
    assert marked.sha256 == hashlib.sha256(f"\ufeff{content}".encode()).hexdigest()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_table_has_the_documents_that_datasets_reads(tmp_path, name):
    texts = ["one\u2028fish", "", " two \r\n", "körper 字 \U0001f41f", '"quoted" \\ \t']
    rows = [{"id": index, "text": text, "meta": {"a": [index]}} for index, text in enumerate(texts)]
    path = tmp_path / name
    if name == "a.parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        write(path, lines(*rows) if name == "a.jsonl" else json.dumps(rows))
    kind = "parquet" if name == "a.parquet" else "json"
    theirs = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert load_text(str(path)).documents == tuple(theirs["text"]) == tuple(texts)
    assert load_text(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


# in each of these datasets takes another type for the column, or refuses the file, once it is long enough
@pytest.mark.parametrize(
    ("rows", "documents"),
    [
        ([{"text": "2024-01-31"}, {"text": "2024-02-29"}], ("2024-01-31", "2024-02-29")),
        ([{"text": "a", "id": 1}, {"text": "b", "id": "x"}], ("a", "b")),
        ([{"text": "a", "id": None}, {"text": "b", "id": {}, "more": []}], ("a", "b")),
        ([{"body": "a", "id": 1}, {"body": "b", "id": "x"}], ("a", "b")),
    ],
    ids=["dates", "mixed types", "new fields", "the only column of nothing but strings"],
)
def test_what_else_is_in_the_rows_changes_no_text(tmp_path, rows, documents):
    assert load_text(write(tmp_path / "a.jsonl", lines(*rows))).documents == documents


def test_of_a_row_no_more_is_kept_than_its_text(tmp_path):
    rows = 1000
    path = write(tmp_path / "a.jsonl", lines({"text": "t" * 100, "other": "o" * 10_000}) * rows)
    tracemalloc.start()
    load_text(path)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < rows * 1000  # a tenth of the file


@pytest.mark.parametrize(
    ("row", "column", "wanted"),
    [
        ({"text": "a", "title": "b"}, None, "a"),
        ({"body": "a", "id": 7}, None, "a"),
        ({"text": "a", "title": "b"}, "title", "b"),
    ],
    ids=["the column text", "the only strings", "the column asked for"],
)
def test_a_row_gives_its_text_from(tmp_path, row, column, wanted):
    assert load_text(write(tmp_path / "a.jsonl", lines(row)), column=column).documents == (wanted,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", " \n\n", "is empty"),
        ("a.jsonl", "\n", "is empty"),
        ("a.jsonl", lines({"text": " "}), "is empty"),
        ("a.txt", b"plain\x00text", "byte 5 is NUL"),
        ("a.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "byte 13 is not UTF-8"),
        ("a.jsonl", lines({"text": "a"}) + "\n" + '{"text": "b"\n', "line 3 is not JSON"),
        ("a.jsonl", lines({"text": "a"}, ["b"]), "line 2 should be a JSON object"),
        ("a.jsonl", lines({"text": "a"}, {"other": "b"}), "row 2 should have text in column 'text', not None"),
        ("a.jsonl", lines({"text": 3}), "row 1 should have text in column 'text', not 3"),
        ("a.jsonl", lines({"title": "a", "body": "b"}), r"has \['title', 'body'\]"),
        ("a.jsonl", lines({"text": None}, {"text": "a"}), "row 1 should have text in column 'text', not None"),
        ("a.jsonl", lines({"other": "b"}, {"text": "a"}), "row 1 should have text in column 'text', not None"),
        ("a.jsonl", lines({"a": "b"}, {"b": "a"}), r"exactly one column of strings, but has \['a', 'b'\]"),
        ("a.jsonl", lines({"a": "b", "n": 1}, {"n": 2}), "row 2 should have text in column 'a', not None"),
        ("a.jsonl", '{"text": "\\ud800"}', "row 1 has half of a surrogate pair"),
        ("a.jsonl", '{"text": "a", "n": ' + "[" * 10**6, "line 1 is not JSON: it has .* too many brackets"),
        ("a.jsonl", '{"text": "a", "n": ' + "1" * 10**4 + "}", "line 1 is not JSON: it has a number of thousands"),
        ("a.jsonl", lines({"text": "a"}).encode() + b'{"text": "caf\xe9"}', "byte 27 is not UTF-8"),
        ("a.jsonl", lines({"text": "a"}) + '{"text": "a\0"}', "byte 25 is NUL"),
        ("a.jsonl", "\ufeff", "is empty"),
        ("a.jsonl", lines({"text": "a"}).encode("utf-16"), "byte 0 is not UTF-8|is NUL"),
        ("a.json", '[{"text": "a"', "is not a readable table of text: Expecting ',' delimiter at column 14"),
        ("a.json", '[\n{"text": "a"}\n{}]', "is not a readable table of text: .* at line 3 column 1"),
        ("a.json", '[{"text": "a"}, 7]', "row 2 should be a JSON object"),
        ("a.json", "[]", "is empty"),
        ("a.parquet", b"PAR1 but no more", "is not a readable table of text"),
        ("a.parquet", b"", "is empty"),
    ],
)
def test_a_file_that_is_not_text_is_refused_with_the_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load_text(write(tmp_path / name, content))


def broken_string() -> pyarrow.Array:
    """A string that is not UTF-8, which Arrow does not look at before it is used."""
    data = [None, pyarrow.array([0, 2], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xc3\x28")]
    return pyarrow.Array.from_buffers(pyarrow.string(), 1, data)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": broken_string()}, "is not a readable table of text: .*utf-8"),
        ({"text": pyarrow.array([], pyarrow.string())}, "is a table without rows"),
        ({"text": [b"bytes"]}, "row 1 should have text in column 'text', not b'bytes'"),
        ({"text": ["a", None]}, "row 2 should have text in column 'text', not None"),
        ({"text": ["", " "]}, "is empty"),
        ({"n": [1]}, r"but has \['n'\]"),
    ],
    ids=["not UTF-8", "no rows", "bytes", "a gap", "blanks", "no text"],
)
def test_a_parquet_file_without_text_is_refused(tmp_path, columns, message):
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        load_text(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("failure", [Exception("odd"), KeyError("odd"), OverflowError("odd"), OSError("odd")])
def test_whatever_the_reader_of_tables_raises_is_the_files_fault(tmp_path, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(parquet, "ParquetFile", fail)
    with pytest.raises(DataError, match=r"a.parquet' is not a readable table of text: .*odd.*; correct the file"):
        load_text(write(tmp_path / "a.parquet", "PAR1"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.txt"])
def test_a_disk_that_fails_is_not_the_texts_fault(tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    source = write(tmp_path / name, lines(*ROWS))
    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match="cannot be read: Input/output error; check its permissions and the disk"):
        load_text(source)


def test_an_unknown_column_is_refused_with_the_existing_columns(tmp_path):
    with pytest.raises(DataError, match=r"should have a column 'body', but has \['text'\]"):
        load_text(write(tmp_path / "a.jsonl", lines(*ROWS)), column="body")

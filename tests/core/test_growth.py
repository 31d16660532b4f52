"""Texts in files that stand for far more bytes than they have: refused before memory is full."""

import bz2
import gzip
import json
import lzma

import pytest
from _texts import lines

from unipruning_core.data import files
from unipruning_core.data.text import load_text
from unipruning_core.errors import DataError

REFUSED = "stands for more than 20000 bytes"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(files, "ALWAYS_READ", 20_000)
    monkeypatch.setattr(files, "MOST_GROWTH", 2)


def zstd(data):
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)]
)
@pytest.mark.parametrize(("name", "row"), [("text.txt", "words\n"), ("text.jsonl", lines({"text": "words"}))])
def test_a_file_that_decompresses_to_far_more_than_text_does_is_refused(tmp_path, ending, compress, name, row):
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(compress(row.encode() * (20_000 // len(row))))
    assert load_text(str(path)).documents
    path.write_bytes(compress(row.encode() * 5000))
    with pytest.raises(DataError, match=REFUSED):
        load_text(str(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", "word " * 50),
        ("messages", [{"role": "user", "content": "word " * 50}]),
        ("input_ids", [1] * 50),
    ],
)
def test_a_table_that_repeats_a_value_for_ever_is_refused(tmp_path, name, value):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "text.parquet"
    parquet.write_table(pyarrow.table({name: [value] * 20}), path)
    assert len(load_text(str(path)).documents) == 20
    parquet.write_table(pyarrow.table({name: [value] * 3000}), path)
    with pytest.raises(DataError, match=REFUSED):
        load_text(str(path))


def test_a_larger_file_may_stand_for_more(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS_READ", 10)
    monkeypatch.setattr(files, "MOST_GROWTH", 20)
    text = json.dumps(list(range(3000)))
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert load_text(str(tmp_path / "text.txt.gz")).documents == (text,)

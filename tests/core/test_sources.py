"""What the name of a text stands for: compressed files, folders, patterns, saved data sets, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import datasets
import pyarrow
import pytest
from _texts import ROWS, lines, write

from unipruning_core.data.sources import Local, find_text, parse_weighted
from unipruning_core.data.text import TextChoice, load_text
from unipruning_core.errors import ConfigError, DataError


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return file.getvalue() + data


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
CONTENTS = {
    "c4-train.00000-of-01024.json": lines(*ROWS),
    "a.json": '[{"text": "one fish"}, {"text": ""}, {"text": "two\\nfish"}]',
    "A.JSON": '["one fish", "", "two\\nfish"]',
    "a.jsonl": lines(*ROWS),
    "a.csv": 'text\none fish\n""\n"two\nfish"\n',
    "a.tsv": 'id\ttext\n1\tone fish\n2\t\n3\t"two\nfish"\n',
    "a.txt": "one fish",
    "a.upper.JSONL": lines(*ROWS),
}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_compressed_file_is_read_as_what_it_holds(tmp_path, name, ending):
    content = CONTENTS[name].encode()
    # as two files one after the other, which each of these formats may be
    half = len(content) // 2
    stored = COMPRESS[ending](content[:half]) + COMPRESS[ending](content[half:])
    text = load_text(write(tmp_path / f"{name}{ending}", stored))
    assert text.documents == (("one fish",) if name == "a.txt" else ("one fish", "", "two\nfish"))
    assert text.sha256 == hashlib.sha256(stored).hexdigest()


def test_what_is_compressed_is_told_by_its_content(tmp_path):
    assert load_text(write(tmp_path / "a.jsonl", gzip.compress(lines(*ROWS).encode()))).documents[0] == "one fish"
    assert load_text(write(tmp_path / "b.txt.gz", "plain, though")).documents == ("plain, though",)


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_damaged_compression_is_one_sentence(tmp_path, ending):
    stored = COMPRESS[ending](os.urandom(500).hex().encode())
    with pytest.raises(DataError, match=r"a.txt.*' is compressed and damaged: .*; download or compress it again"):
        load_text(write(tmp_path / f"a.txt{ending}", stored[:-20]))


def test_parquet_is_not_compressed_again(tmp_path):
    with pytest.raises(DataError, match="is compressed twice, for parquet is so already; decompress the file"):
        load_text(write(tmp_path / "a.parquet.gz", gzip.compress(b"PAR1")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.html", "<p>text</p>", "is markup, which is not read; convert it to plain text"),
        ("page.htm.gz", "<p>text</p>", "is markup"),
        ("a.yaml", "text: a", "is a file of settings, which is not read"),
        ("a.zip", b"any", "is an archive of files, which is not read; extract it"),
        ("a.tar.gz", b"any", "is an archive of files"),
        ("a.arrow", b"any", "is an Arrow file, which is not read; pass the folder that save_to_disk wrote"),
        ("a.safetensors", b"any", "is a file of tensors"),
        ("a.pdf", b"any", "is a document of an application"),
        ("a.txt", zipped(b"words"), "is an archive of files"),
        ("a.txt", gzip.compress(tarred(b"words")), "is an archive of files"),
        ("a.jsonl", b"ARROW1\0\0", "is an Arrow file"),
        ("a.unheard-of", b"PAR1....", "is a parquet file under another name"),
        ("a", b"%PDF-1.7", "is a document of an application"),
        ("a.txt", "text".encode("utf-16"), "is not text: byte .*; convert it to UTF-8"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,  # an archive holds the time
)
def test_a_file_of_another_kind_is_refused_by_its_kind(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load_text(write(tmp_path / name, content))


def make_folder(folder: Path) -> None:
    (folder / "inner").mkdir(parents=True)
    write(folder / "b.jsonl", lines({"text": "third"}))
    write(folder / "a.jsonl.gz", gzip.compress(lines({"text": "first"}, {"text": "second"}).encode()))
    write(folder / "inner" / "c.json", lines({"text": "fourth"}))
    write(folder / "README.md", "# about")
    write(folder / "LICENSE", "about")
    write(folder / ".hidden.jsonl", lines({"text": "hidden"}))


@pytest.mark.parametrize(
    "name", ["data/c4", "./data/c4", "data/c4/", "{here}/data/c4", "data/c4/**/*.json*", "data/../data/c4"]
)
def test_a_folder_is_its_files_in_order_however_it_is_spelled(tmp_path, monkeypatch, name):
    # "data/c4" could be a name on the hub
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    make_folder(Path("data/c4"))
    name = name.format(here=tmp_path)
    text = load_text(name)
    assert text.documents == ("first", "second", "third", "fourth")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in find_text(name).files]
    assert text.sha256 == hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
    assert text.readings == [f"text {name!r}: text in column 'text' of 3 files (4 documents)"]
    assert len(TextChoice(name).files()) == 3


def test_a_folder_that_is_not_there_may_be_on_the_hub(monkeypatch):
    asked: list[str] = []

    def load(path, **_):
        asked.append(path)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_text("data/c4").documents[0] == "one fish"
    assert asked == ["data/c4"]


def test_a_folder_of_plain_text_and_a_pattern_of_one_file(tmp_path):
    write(tmp_path / "b.txt", "two")
    write(tmp_path / "a.raw", "one")
    write(tmp_path / "notes.md", "about")
    assert load_text(str(tmp_path)).documents == ("one", "two")
    one = load_text(str(tmp_path / "*.txt"))
    assert (one.documents, one.sha256) == (("two",), hashlib.sha256(b"two").hexdigest())


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        (
            ["a.csv", "b.parquet"],
            "",
            r"has files of several kinds, such as '.*a.csv' and '.*b.parquet'; pass .*/\*.csv'",
        ),
        (["a.jsonl", "b.txt"], "", "has files of several kinds"),
        (["picture"], "", "has no files of text; pass a"),
        ([], "", "has no files of text; pass a"),
        (["a.txt"], "*.jsonl", "has no files of text; pass a"),
        (["a.html"], "*", "a.html' is markup"),
    ],
)
def test_a_folder_that_cannot_be_read_as_one_is_refused(tmp_path, files, name, message):
    for file in files:
        write(tmp_path / file, "text")
    with pytest.raises(DataError, match=message):
        load_text(str(tmp_path / name))


def test_files_that_would_be_read_differently_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", lines({"body": "one"}))
    write(tmp_path / "b.jsonl", lines({"text": "two", "body": "three"}))
    with pytest.raises(
        DataError, match=r"a.jsonl' has text in column 'body' and '.*b.jsonl' text in column 'text'; name"
    ):
        load_text(str(tmp_path))
    assert load_text(str(tmp_path), column="body").documents == ("one", "three")


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.txt", "")
    with pytest.raises(DataError, match=r"b.txt' is empty"):
        load_text(str(tmp_path))


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe' is not a regular file"):
        load_text(str(tmp_path / "pipe"))


def saved(folder: Path, **splits: list[str]) -> str:
    made = {name: datasets.Dataset.from_dict({"n": range(len(texts)), "text": texts}) for name, texts in splits.items()}
    (datasets.DatasetDict(made) if len(made) > 1 else made["all"]).save_to_disk(folder)
    return str(folder)


def test_a_saved_data_set_is_read(tmp_path, capfd):
    folder = saved(tmp_path / "d", all=["one", "two"])
    capfd.readouterr()
    text = load_text(folder)
    assert text.documents == ("one", "two")
    assert text.sha256 == hashlib.sha256(b"one\n\ntwo").hexdigest()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(
        DataError, match=r"--split train is for data sets with splits, and '.*d' has none; leave it out"
    ):
        load_text(str(tmp_path / "d"), split="train")


def test_a_saved_data_set_has_splits(tmp_path):
    folder = saved(tmp_path / "d", train=["one"], test=["two"], extra=["three"])
    assert load_text(folder).documents == ("one",)
    assert load_text(folder, default_split="test").documents == ("two",)
    assert load_text(folder, split="extra").documents == ("three",)
    with pytest.raises(DataError, match=r"should have a split 'dev', but has \['train', 'test', 'extra'\]; name one"):
        load_text(folder, split="dev")
    assert {path.parent.name for path in find_text(folder).files} == {"d", "train", "test", "extra"}


def test_a_damaged_saved_data_set_is_one_sentence(tmp_path):
    folder = Path(saved(tmp_path / "d", all=["one"]))
    next(folder.glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"d' is not a readable data set: .*; save it again with save_to_disk"):
        load_text(str(folder))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("a.txt", {"column": "text"}, r"--text-column text is for tables, and '.*a.txt' has no columns; leave it out"),
        ("a.txt", {"split": "train"}, r"--split train is for data sets, and '.*a.txt' has no splits; leave it out"),
        ("a.jsonl", {"split": "train"}, r"--split train is for data sets"),
        (["one"], {"column": "text"}, "--text-column text is for tables, and texts in memory has no columns"),
    ],
)
def test_a_flag_that_does_not_concern_the_text_is_refused(tmp_path, source, options, message):
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "a.jsonl", lines({"text": "one"}))
    with pytest.raises(DataError, match=message):
        load_text(source if isinstance(source, list) else str(tmp_path / source), **options)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["a.txt"], "a.txt"),
        (["0.7:a.txt"], {"a.txt": 0.7}),
        (["a.txt", "b.txt"], {"a.txt": 1.0, "b.txt": 1.0}),
        (["3:org/name:config", "wikitext2"], {"org/name:config": 3.0, "wikitext2": 1.0}),
        (["org/name:1"], "org/name:1"),
        (["2:here.txt"], "2:here.txt"),
        ([".5:a", "1e1:b"], {"a": 0.5, "b": 10.0}),
    ],
)
def test_a_weight_stands_before_the_name(tmp_path, monkeypatch, words, meant):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "2:here.txt", "a file is itself")
    assert parse_weighted(words) == meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0:a"], "the weight of 'a' in --data must be a positive number, not 0.0"),
        (["-1:a"], "must be a positive number, not -1.0"),
        (["nan:a"], "must be a positive number, not nan"),
        (["inf:a"], "must be a positive number, not inf"),
        (["a", "2:a"], "--data names 'a' twice; give it once, with the sum as its weight"),
    ],
)
def test_a_weight_is_a_positive_number(words, message):
    with pytest.raises(ConfigError, match=message):
        parse_weighted(words)


def test_the_kind_is_that_of_the_files(tmp_path):
    assert Local((tmp_path / "a.csv.zst",)).kind == "csv"

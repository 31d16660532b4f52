"""Text loading: what is read from where, and the messages when it cannot be read."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import datasets
import huggingface_hub.utils as hub
import pytest

from unipruning_core.data import text as text_module
from unipruning_core.data.text import load_text
from unipruning_core.errors import DataError

ROWS = [{"text": "one fish"}, {"text": ""}, {"text": "two\nfish"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.utf8", "a.md", "a.unheard-of", "a"])
def test_a_text_file_is_one_document_as_it_is(tmp_path, name):
    content = " = Title = \r\n\n körper 字\n"
    loaded = load_text(write(tmp_path / name, content))
    assert loaded.documents == (content,)
    assert loaded.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert loaded.source == str(tmp_path / name)


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
        ("a.json", '[{"text": "a"', "is not a readable table of text"),
        ("a.parquet", b"PAR1 but no more", "is not a readable table of text"),
    ],
)
def test_a_file_that_is_not_text_is_refused_with_the_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load_text(write(tmp_path / name, content))


def test_an_unknown_column_is_refused_with_the_existing_columns(tmp_path):
    with pytest.raises(DataError, match=r"should have a column 'body', but has \['text'\]"):
        load_text(write(tmp_path / "a.jsonl", lines(*ROWS)), column="body")


@pytest.mark.parametrize("source", ["missing.txt", "folder/missing.jsonl", "/no/such/file", "./org/name", "wikitext"])
def test_a_file_that_does_not_exist_is_not_looked_for_on_the_hub(monkeypatch, source):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=f"{source!r} is not a file; pass a"):
        load_text(source)


@pytest.fixture
def talkative():
    """Set the libraries as a user may have set them, and yield what they log."""
    logged: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    handler = Recorder()
    before = [library.logging.get_verbosity() for library in (datasets, hub)]
    for library in (datasets, hub):
        library.logging.set_verbosity(logging.WARNING)
        library.enable_progress_bars()
    logging.getLogger("datasets").addHandler(handler)
    yield logged
    logging.getLogger("datasets").removeHandler(handler)
    for library, verbosity in zip((datasets, hub), before, strict=True):
        library.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("name", ["a.jsonl", "broken.parquet"])
def test_reading_a_table_says_nothing_and_leaves_no_cache(tmp_path, monkeypatch, capfd, talkative, name):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / name, lines(*ROWS))
    if name == "a.jsonl":
        load_text(source)
    else:
        with pytest.raises(DataError):
            load_text(source)
    assert capfd.readouterr() == ("", "")
    assert talkative == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("talkative")
def test_the_libraries_own_verbosity_comes_back(tmp_path):
    load_text(write(tmp_path / "a.jsonl", lines(*ROWS)))
    for library in (datasets, hub):
        assert library.logging.get_verbosity() == logging.WARNING
        assert not library.are_progress_bars_disabled()


class Hub:
    """Stands in for datasets.load_dataset and records its last request."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.request: dict[str, object] = {}

    def __call__(self, path: str, **options: object) -> object:
        self.request = {"path": path, **options}
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("source", "split", "request_made"),
    [
        ("wikitext2", "test", ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", False)),
        ("wikitext2", None, ("Salesforce/wikitext", "wikitext-2-raw-v1", "train", False)),
        ("c4", "train", ("allenai/c4", "en", "train", True)),
        ("c4", "test", ("allenai/c4", "en", "validation", True)),
        ("allenai/c4", None, ("allenai/c4", "en", "train", True)),
        ("allenai/c4:de", "test", ("allenai/c4", "de", "validation", True)),
        ("org/name", None, ("org/name", None, "train", False)),
        ("org/name-1.5:config", "test", ("org/name-1.5", "config", "test", False)),
    ],
)
def test_a_name_asks_the_hub_for(monkeypatch, source, split, request_made):
    answer = datasets.Dataset.from_list(ROWS)
    fake = Hub(answer.to_iterable_dataset() if request_made[3] else answer)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    loaded = load_text(source, split=split)
    assert fake.request == dict(zip(("path", "name", "split", "streaming"), request_made, strict=True))
    assert loaded.documents == ("one fish", "", "two\nfish")
    assert loaded.source == source
    assert loaded.sha256 == hashlib.sha256(b"one fish\n\n\n\ntwo\nfish").hexdigest()


def test_of_an_endless_stream_only_the_first_documents_are_taken(monkeypatch):
    def endless():
        number = 0
        while True:
            yield {"text": f"document {number}"}
            number += 1

    monkeypatch.setattr(text_module, "STREAMED_DOCUMENTS", 3)
    stream = datasets.IterableDataset.from_generator(endless)
    monkeypatch.setattr(datasets, "load_dataset", Hub(stream))
    assert load_text("c4").documents == ("document 0", "document 1", "document 2")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ConnectionError("Couldn't reach the Hub\nmore"), "no copy of it is cached: Couldn't reach the Hub; check"),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), "no copy of it is cached: doesn't exist; check"),
        (ValueError('Unknown split "train".'), "no readable split 'train': Unknown split \"train\"; name a split"),
        (datasets.exceptions.DatasetGenerationError("broken"), "no readable split 'train': broken; name a split"),
    ],
)
def test_a_hub_that_has_no_answer_is_one_sentence(monkeypatch, failure, message):
    monkeypatch.setattr(datasets, "load_dataset", Hub(failure))
    with pytest.raises(DataError, match=message) as caught:
        load_text("org/name")
    assert "\n" not in str(caught.value)

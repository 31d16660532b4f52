"""Text loading: what is read from where, and the messages when it cannot be read."""

from __future__ import annotations

import errno
import hashlib
import logging
from pathlib import Path

import datasets
import huggingface_hub.utils as hub
import pytest
from _texts import ROWS, lines, write

from unipruning_core.data import hub as hub_module
from unipruning_core.data.text import load_text
from unipruning_core.errors import DataError


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.utf8", "a.md", "a.unheard-of", "a"])
def test_a_text_file_is_one_document_as_it_is(tmp_path, name):
    content = " = Title = \r\n\n körper 字\n"
    loaded = load_text(write(tmp_path / name, content))
    assert loaded.documents == (content,)
    assert loaded.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert loaded.source == str(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x" * 300 + ".txt", "File name too long; choose a shorter name"),
        ("a\0.txt", "null.*; check the path"),
        ("loop.txt", "symbolic.*; replace the link that leads to itself"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_one_sentence(tmp_path, monkeypatch, source, reason):
    monkeypatch.chdir(tmp_path)
    Path("loop.txt").symlink_to("loop.txt")
    with pytest.raises(DataError, match=f"cannot be looked at: .*{reason}"):
        load_text(source)


def test_texts_in_memory_are_characters():
    with pytest.raises(DataError, match="text 1 in memory has half of a surrogate pair"):
        load_text(["a", "\ud800"])


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
def test_the_libraries_own_verbosity_comes_back(monkeypatch):
    def load(*_, **__):
        assert datasets.are_progress_bars_disabled()
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_text("org/name")
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

    monkeypatch.setattr(hub_module, "STREAMED_DOCUMENTS", 3)
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
        (KeyError("odd"), "no readable split 'train': 'odd'; name a split"),
        (Exception("odd"), "no readable split 'train': odd; name a split"),
        (OSError(errno.ENOSPC, "No space left"), "cannot be kept on this disk: No space left; free some space"),
    ],
)
def test_a_hub_that_has_no_answer_is_one_sentence(monkeypatch, failure, message):
    monkeypatch.setattr(datasets, "load_dataset", Hub(failure))
    with pytest.raises(DataError, match=message) as caught:
        load_text("org/name")
    assert "\n" not in str(caught.value)

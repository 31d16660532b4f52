"""Text for calibration and evaluation: a local file, a data set on the hub, or texts in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import DataError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
TABLES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
# endings that tell a missing file from a data set; a file with any other ending is read as text too
ENDINGS = (*TABLES, ".txt", ".raw", ".utf8", ".md")
# of C4's 365 million documents, enough for 1000 windows of 4096 tokens
STREAMED_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Text:
    """Documents in the order of their source; a plain text file is one document."""

    documents: tuple[str, ...]
    source: str  # what to call it in a report
    sha256: str  # of a local file's bytes; of a hub data set, of its documents joined by SEPARATOR


@dataclass(frozen=True)
class _HubName:
    path: str
    config: str | None
    streaming: bool = False
    test_split: str = "test"


ALIASES = {
    "wikitext2": _HubName("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "c4": _HubName("allenai/c4", "en", streaming=True, test_split="validation"),
}


@dataclass(frozen=True)
class TextChoice:
    """Which text to read: a file, a data set on the hub, or texts in memory."""

    source: str | os.PathLike[str] | Sequence[str]
    split: str | None = None
    column: str | None = None

    def load(self, split: str) -> Text:
        """Read the text; ``split`` is the default split.

        Raises:
            DataError: as ``load_text``.
        """
        return load_text(self.source, split=self.split or split, column=self.column)


def load_text(
    source: str | os.PathLike[str] | Sequence[str], *, split: str | None = None, column: str | None = None
) -> Text:
    """Read a local file or a data set on the hub, or take texts in memory.

    A data set is "wikitext2", "c4", or "org/name[:config]"; ``split`` (default "train") is for data sets only.  The
    text column of a table is ``column``, or else "text", or else the only column of strings.

    Raises:
        DataError: there is no such text, or it is empty or not text.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return _in_memory(source)
    path = Path(source).expanduser()
    if path.is_file():
        documents, digest = _read_file(path, column)
    elif source in ALIASES or _looks_like_hub_name(source):
        documents = _read_hub(_hub_name(source), source, split or "train", column)
        digest = hashlib.sha256(SEPARATOR.join(documents).encode()).hexdigest()
    else:
        raise DataError(
            f"{source!r} is not a file; pass a .jsonl, .json, .parquet or text file, "
            f"or a data set: {', '.join(ALIASES)}, or org/name[:config]"
        )
    if not any(document.strip() for document in documents):
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    return Text(documents, source, digest)


def _in_memory(documents: Sequence[str]) -> Text:
    if others := [document for document in documents if not isinstance(document, str)]:
        raise DataError(f"texts in memory must be strings, not {type(others[0]).__name__}; pass a list of strings")
    if not any(document.strip() for document in documents):
        raise DataError("the texts in memory are empty; pass some with words in them")
    digest = hashlib.sha256(SEPARATOR.join(documents).encode()).hexdigest()
    return Text(tuple(documents), f"{len(documents)} texts in memory", digest)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids, with the tokenizer's defaults but without its warning about long texts."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids


def _read_file(path: Path, column: str | None) -> tuple[tuple[str, ...], str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"text {str(path)!r} cannot be read: {error.strerror}; check its permissions") from error
    digest = hashlib.sha256(data).hexdigest()
    if not data.strip():
        raise DataError(f"text {str(path)!r} is empty; pass one with words in it")
    suffix = path.suffix.lower()
    if suffix != ".parquet":
        text = _decode(data, path)
    if suffix not in TABLES:
        return (text,), digest
    if suffix == ".jsonl":
        _check_lines(text, path)
    return _read_table(path, column), digest


def _decode(data: bytes, path: Path) -> str:
    if (position := data.find(0)) >= 0:
        raise DataError(f"{str(path)!r} is not text: byte {position} is NUL; convert it to UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not text: byte {error.start} is not UTF-8; convert it to UTF-8") from error


def _check_lines(text: str, path: Path) -> None:
    """Refuse a wrong line by its number, which the table reader does not report."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{str(path)!r} line {number} is not JSON: {error.msg} at column {error.colno}; "
                "correct or remove the line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{str(path)!r} line {number} should be a JSON object such as {{'text': ...}}, "
                f"not a {type(row).__name__}; correct or remove the line"
            )


def _read_table(path: Path, column: str | None) -> tuple[str, ...]:
    import datasets

    # the rows are copied, so the cache can be temporary
    with tempfile.TemporaryDirectory() as cache, _quiet():
        try:
            table = datasets.load_dataset(
                TABLES[path.suffix.lower()], data_files=str(path.resolve()), split="train", cache_dir=cache
            )
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
            reason = first_line(error.__cause__ or error)
            raise DataError(f"{str(path)!r} is not a readable table of text: {reason}; correct the file") from error
        return _column(table, table.features, str(path), column)


def _read_hub(name: _HubName, source: str, split: str, column: str | None) -> tuple[str, ...]:
    import datasets

    split = name.test_split if split == "test" else split
    with _quiet():
        try:
            rows = datasets.load_dataset(name.path, name=name.config, split=split, streaming=name.streaming)
            features = rows.features or dict.fromkeys(next(iter(rows), {}))
            if name.streaming:
                rows = islice(rows, STREAMED_DOCUMENTS)
            return _column(rows, features, source, column)
        # OSError includes every failure to connect
        except OSError as error:
            raise DataError(
                f"data set {source!r} cannot be fetched, and no copy of it is cached: {first_line(error)}; "
                "check the name and the connection, or pass a local file"
            ) from error
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"data set {source!r} has no readable split {split!r}: {first_line(error)}; "
                "name a split that it has and, if need be, a configuration: org/name:config"
            ) from error


def _column(rows: Iterable[Any], features: Any, source: str, column: str | None) -> tuple[str, ...]:
    names = list(features)
    if column is None:
        strings = [n for n in names if getattr(features[n], "dtype", None) in ("string", "large_string")]
        column = "text" if "text" in names else strings[0] if len(strings) == 1 else None
    if column not in names:
        expected = "a column 'text', or exactly one column of strings" if column is None else f"a column {column!r}"
        raise DataError(f"{source!r} should have {expected}, but has {names}; name the text column with --text-column")
    documents = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row[column], str):
            raise DataError(
                f"{source!r} row {number} should have text in column {column!r}, not {row[column]!r}; correct or remove"
                " the row"
            )
        documents.append(row[column])
    return tuple(documents)


def _looks_like_hub_name(source: str) -> bool:
    parts = source.partition(":")[0].split("/")
    return len(parts) == 2 and all(parts) and parts[0][0] not in ".~" and not parts[1].lower().endswith(ENDINGS)


def _hub_name(source: str) -> _HubName:
    if source in ALIASES:
        return ALIASES[source]
    path, _, config = source.partition(":")
    c4 = ALIASES["c4"]
    # it is just as large under its full name: 300 GB in English alone
    return replace(c4, config=config or c4.config) if path == c4.path else _HubName(path, config or None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the data set libraries' progress bars and advice; the command line has its own."""
    import datasets
    import huggingface_hub.utils as hub

    libraries = (datasets, hub)
    before = [(library.logging.get_verbosity(), library.are_progress_bars_disabled()) for library in libraries]
    for library in libraries:
        library.logging.set_verbosity(logging.CRITICAL)
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library, (verbosity, hidden) in zip(libraries, before, strict=True):
            library.logging.set_verbosity(verbosity)
            if not hidden:
                library.enable_progress_bars()

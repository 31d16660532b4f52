"""Text for calibration and evaluation: a local file, a data set on the hub, or texts in memory."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.data.tables import choose_column, decode, is_encodable, read_table, text_of_rows
from unipruning_core.errors import DataError, first_line, reason_and_remedy
from unipruning_core.models.borders import library_errors_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
TABLES = (".jsonl", ".json", ".parquet")
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

    def files(self) -> list[tuple[str, Path]]:
        """Return the local files that are read, which no output may overlap."""
        if not isinstance(self.source, str | os.PathLike):
            return []
        path = Path(self.source).expanduser()
        return [("text", path)] if path.is_file() else []


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
    path = find_text(source)
    if path is not None:
        documents, digest = _read_file(path, column)
    else:
        documents = _read_hub(_hub_name(source), source, split or "train", column)
        digest = hashlib.sha256(SEPARATOR.join(documents).encode()).hexdigest()
    if not any(document.strip() for document in documents):
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    return Text(documents, source, digest)


def find_text(source: str) -> Path | None:
    """Return the local file of that name, or None for the name of a data set on the hub; imports nothing heavy.

    Raises:
        DataError: it is neither, or the file is empty.
    """
    path = os.path.expanduser(source)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    # ValueError for a name with a NUL
    except (OSError, ValueError) as error:
        reason = reason_and_remedy(error, "check the path", Path(path))
        raise DataError(f"text {source!r} cannot be looked at: {reason}") from error
    else:
        if stat.S_ISREG(status.st_mode):
            if not status.st_size:
                raise DataError(f"text {source!r} is empty; pass one with words in it")
            return Path(path)
    if source in ALIASES or _looks_like_hub_name(source):
        return None
    raise DataError(
        f"{source!r} is not a file; pass a .jsonl, .json, .parquet or text file, "
        f"or a data set: {', '.join(ALIASES)}, or org/name[:config]"
    )


def _in_memory(documents: Sequence[str]) -> Text:
    if others := [document for document in documents if not isinstance(document, str)]:
        raise DataError(f"texts in memory must be strings, not {type(others[0]).__name__}; pass a list of strings")
    if not any(document.strip() for document in documents):
        raise DataError("the texts in memory are empty; pass some with words in them")
    if broken := [number for number, document in enumerate(documents) if not is_encodable(document)]:
        raise DataError(f"text {broken[0]} in memory has half of a surrogate pair, which is no character; correct it")
    digest = hashlib.sha256(SEPARATOR.join(documents).encode()).hexdigest()
    return Text(tuple(documents), f"{len(documents)} texts in memory", digest)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids, with the tokenizer's defaults but without its warning about long texts."""
    with library_errors_as(DataError, "the model's tokenizer fails on the text", "check the tokenizer and the text"):
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids


def _read_file(path: Path, column: str | None) -> tuple[tuple[str, ...], str]:
    try:
        if path.suffix.lower() in TABLES:
            return read_table(path, column)
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"text {str(path)!r} cannot be read: {reason}; check its permissions and the disk") from error
    return (decode(data, path),), hashlib.sha256(data).hexdigest()


def _read_hub(name: _HubName, source: str, split: str, column: str | None) -> tuple[str, ...]:
    import datasets

    split = name.test_split if split == "test" else split
    try:
        with _quiet():
            rows = datasets.load_dataset(name.path, name=name.config, split=split, streaming=name.streaming)
            features = rows.features or dict.fromkeys(next(iter(rows), {}))
            strings = [n for n in features if getattr(features[n], "dtype", None) in ("string", "large_string")]
            chosen = choose_column(features, strings, source, column)
            return text_of_rows(islice(rows, STREAMED_DOCUMENTS) if name.streaming else rows, source, chosen)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        # failures to connect have no number, and those of the hub are about files that it lacks
        if error.errno and not isinstance(error, FileNotFoundError | ConnectionError | TimeoutError):
            raise DataError(
                f"data set {source!r} cannot be kept on this disk: {error.strerror}; free some space there, or set "
                "HF_HOME to a folder that can be written"
            ) from error
        raise DataError(
            f"data set {source!r} cannot be fetched, and no copy of it is cached: {first_line(error)}; "
            "check the name and the connection, or pass a local file"
        ) from error
    # whatever the library raises, what it was asked for is at fault
    except Exception as error:
        raise DataError(
            f"data set {source!r} has no readable split {split!r}: {first_line(error)}; "
            "name a split that it has and, if need be, a configuration: org/name:config"
        ) from error


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

"""Text for calibration and evaluation: local files, data sets, texts in memory, or a mixture of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from unipruning_core.data.files import decode, opened
from unipruning_core.data.forms import Document, Form, Ids, digested, is_blank, is_encodable
from unipruning_core.data.hub import read_hub, read_saved
from unipruning_core.data.sources import Local, check_weights, find_text
from unipruning_core.data.tables import joined_digest, read_table
from unipruning_core.errors import DataError

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Text:
    """Documents in the order of their source; a plain text file is one document."""

    documents: tuple[Document, ...]
    source: str  # what to call it in a report
    # of a local file's bytes, or of the sha256 of several in lines; of data sets and texts in memory, of the documents
    # joined by SEPARATOR
    sha256: str
    form: str = ""  # what was read of it
    parts: tuple[tuple[float, Text], ...] = ()  # of a mixture, which has no documents of its own, with their weights

    @property
    def holds_ids(self) -> bool:
        """Whether there are token ids in it, which no tokenizer made."""
        documents = [document for _, part in self.parts for document in part.documents] or self.documents
        return any(isinstance(document, Ids) for document in documents)

    @property
    def readings(self) -> list[str]:
        """What was read of each source, to say so."""
        if self.parts:
            return [reading for _, part in self.parts for reading in part.readings]
        count = f"{len(self.documents)} document{'s' if len(self.documents) > 1 else ''}"
        return [f"text {self.source!r}: {self.form} ({count})"] if self.form else []


@dataclass(frozen=True)
class TextChoice:
    """Which text to read: a name of files or of a data set, texts in memory, or names with the weights of a mixture."""

    source: str | os.PathLike[str] | Sequence[str] | Mapping[str, float]
    split: str | None = None
    column: str | None = None

    def load(self, split: str) -> Text:
        """Read the text; ``split`` is the default split of a data set.

        Raises:
            DataError: as ``load_text``.
            ConfigError: a weight is no positive number.
        """
        if not isinstance(self.source, Mapping):
            return load_text(self.source, split=self.split, column=self.column, default_split=split)
        check_weights(self.source)
        found = {source: find_text(source) for source in self.source}
        # a flag for one kind of source does not concern the others, unless it concerns none
        splits = any(map(_has_splits, found.values()))
        columns = any(map(_has_columns, found.values()))
        parts = tuple(
            (
                float(self.source[source]),
                load_text(
                    source,
                    split=self.split if _has_splits(local) or not splits else None,
                    column=self.column if _has_columns(local) or not columns else None,
                    default_split=split,
                ),
            )
            for source, local in found.items()
        )
        lines = "".join(f"{weight} {part.sha256}\n" for weight, part in parts)
        return Text((), described(self.source), sha256(lines.encode()).hexdigest(), parts=parts)

    def files(self) -> list[tuple[str, Path]]:
        """Return the local files that are read, which no output may overlap."""
        if isinstance(self.source, str | os.PathLike):
            names = [os.fspath(self.source)]
        else:
            names = list(self.source) if isinstance(self.source, Mapping) else []
        found = [local for name in names if (local := find_text(name)) is not None]
        return [("text", path) for local in found for path in local.files]


def described(weights: Mapping[str, float]) -> str:
    """Return a mixture as a report names it, in the words of the command line."""
    return " + ".join(f"{weight:g}:{source}" for source, weight in weights.items())


def load_text(
    source: str | os.PathLike[str] | Sequence[str],
    *,
    split: str | None = None,
    column: str | None = None,
    default_split: str = "train",
) -> Text:
    """Read local files or a data set, or take texts in memory.

    A name is that of a file, of a folder or pattern of files of one kind, of a folder that ``save_to_disk`` wrote, or
    of a data set on the hub: "wikitext2", "c4", or "org/name[:config]".  ``split`` is for data sets only, and
    ``column`` for tables; see ``choose_form`` for what is read without it.

    Raises:
        DataError: there is no such text, or it is empty or not text, or a flag does not concern it.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        _refuse_flags("texts in memory", split, column)
        return _in_memory(source)
    local = find_text(source)
    if local is None:
        text = _of_data_set(source, *read_hub(source, split or default_split, column))
    elif local.saved is not None:
        text = _of_data_set(source, *read_saved(local.saved, source, split, default_split, column))
    else:
        _refuse_flags(repr(source), split, None if _has_columns(local) else column)
        text = _read_files(local, source, column)
    if all(map(is_blank, text.documents)):
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    return text


def _has_splits(local: Local | None) -> bool:
    return local is None or local.saved is not None


def _has_columns(local: Local | None) -> bool:
    return local is None or local.kind != "text"


def _refuse_flags(what: str, split: str | None, column: str | None) -> None:
    """Refuse a split, or a column, of a source that has none."""
    if split is not None:
        raise DataError(f"--split {split} is for data sets, and {what} has no splits; leave it out")
    if column is not None:
        raise DataError(f"--text-column {column} is for tables, and {what} has no columns; leave it out")


def _of_data_set(source: str, documents: tuple[Document, ...], form: Form) -> Text:
    return Text(documents, source, joined_digest(map(digested, documents), SEPARATOR), str(form))


def _read_files(local: Local, source: str, column: str | None) -> Text:
    documents: list[Document] = []
    digests: list[str] = []
    forms: list[str] = []
    for path in local.files:
        made, form, digest = _read_file(path, local.kind, column)
        documents += made
        digests.append(digest)
        forms.append(form)
        if form != forms[0]:
            raise DataError(
                f"the files of {source!r} should be read alike, but {str(local.files[0])!r} has {forms[0]} and "
                f"{str(path)!r} {form}; name one column with --text-column"
            )
    if len(digests) == 1:
        return Text(tuple(documents), source, digests[0], forms[0])
    lines = "".join(f"{digest}\n" for digest in digests)
    return Text(tuple(documents), source, sha256(lines.encode()).hexdigest(), f"{forms[0]} of {len(digests)} files")


def _read_file(path: Path, kind: str, column: str | None) -> tuple[tuple[Document, ...], str, str]:
    """Return the documents of a file, what was read of it, and the sha256 of its bytes."""
    try:
        if kind != "text":
            documents, form, digest = read_table(path, kind, column)
            return documents, str(form), digest
        with opened(path) as (file, hashed):
            text = decode(file.read(), path)
            return (text,), "plain text", hashed.hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"text {str(path)!r} cannot be read: {reason}; check its permissions and the disk") from error


def _in_memory(documents: Sequence[str]) -> Text:
    if others := [document for document in documents if not isinstance(document, str)]:
        raise DataError(f"texts in memory must be strings, not {type(others[0]).__name__}; pass a list of strings")
    if all(map(is_blank, documents)):
        raise DataError("the texts in memory are empty; pass some with words in them")
    if broken := [number for number, document in enumerate(documents) if not is_encodable(document)]:
        raise DataError(f"text {broken[0]} in memory has half of a surrogate pair, which is no character; correct it")
    return Text(tuple(documents), f"{len(documents)} texts in memory", joined_digest(documents, SEPARATOR))

"""Tables of text, local or of datasets: what is read of their rows, and nothing else of them is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.data.files import BLOCK_BYTES, HEAD_BYTES, is_compressed, most_bytes, opened, too_large
from unipruning_core.data.forms import MASK, SPEAKERS, Document, Form, Kind, Row, choose_form, kind_of_value, known_form
from unipruning_core.data.rows import is_number, json_rows, separated_rows
from unipruning_core.errors import DataError, first_line

if TYPE_CHECKING:
    from io import BufferedReader

Documents = tuple[Document, ...]
Gap = Kind | None | str  # "gap" for a column that was empty so far

ROWS_AT_ONCE = 1024


def read_table(path: Path, kind: str, column: str | None) -> tuple[Documents, Form, str]:
    """Return the documents of a table, what was read of it, and the sha256 of the file's bytes.

    Raises:
        OSError: it cannot be read.
        DataError: it is no such table, or has no column of documents.
    """
    if kind == "parquet":
        with path.open("rb") as file:
            digest = sha256()
            if is_compressed(file.peek(HEAD_BYTES)):
                raise DataError(f"{str(path)!r} is compressed twice, for parquet is so already; decompress the file")
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            return (*_parquet(file, path, column), digest.hexdigest())
    with opened(path) as (text, hashed):
        if kind == "json":
            made = documents_of_rows(json_rows(text, path), str(path), column)
        else:
            made = _of_cells(separated_rows(text, path, kind), str(path), column)
        return (*made, hashed.hexdigest())


def documents_of_rows(rows: Iterator[Row], source: str, column: str | None) -> tuple[Documents, Form]:
    """Return the documents of rows of any values, and what was read of them.

    Raises:
        DataError: there are none, or a row has none.
    """
    # its name often follows from the first row, so no other is kept
    first = _first(rows, source)
    rows = chain([first], rows)
    if (form := known_form({name: kind_of_value(value) for name, value in first.items()}, column)) is not None:
        return form.documents(rows, source), form
    kinds: dict[str, Gap] = {}
    held: list[Row] = []
    for row in rows:
        found = {name: kind_of_value(value) for name, value in row.items()}
        for name, kind in found.items():
            now: Gap = "gap" if _is_gap(row[name]) else kind
            before = kinds.get(name, "gap")
            kinds[name] = now if before == "gap" else before if now in ("gap", before) else None
        held.append({name: row[name] for name, kind in found.items() if kind or _is_gap(row[name])})
    form = choose_form({name: None if kind == "gap" else kind for name, kind in kinds.items()}, source, column)  # type: ignore[misc]
    return form.documents(held, source), form


def documents_of_table(rows: Any, schema: Any, source: str, column: str | None) -> tuple[Documents, Form]:
    """Return the documents of a data set of ``datasets`` with this Arrow schema, and what was read of it."""
    form = choose_form(_kinds_of(schema), source, column)
    chosen = rows.select_columns(_columns(form, schema))
    # a file is mapped as it is, and wrong offsets in it would be followed beyond its end; a stream has no table
    if (table := getattr(chosen, "data", None)) is not None:
        table.validate(full=True)
    return form.documents(chosen, source), form


def _of_cells(rows: Iterator[dict[str, str]], source: str, column: str | None) -> tuple[Documents, Form]:
    """As ``documents_of_rows``, for cells that are all strings: one of nothing but numbers is no text."""
    first = _first(rows, source)
    rows = chain([first], rows)
    if (form := known_form(dict.fromkeys(first, "text"), column)) is not None:
        return form.documents(rows, source), form
    held = list(rows)
    kinds: dict[str, Kind | None] = {
        name: None if all(is_number(row[name] or "0") for row in held) else "text" for name in first
    }
    form = choose_form(kinds, source, column)
    return form.documents(held, source), form


def _is_gap(value: object) -> bool:
    """Return whether a cell tells nothing of its column."""
    return value is None or (isinstance(value, list) and not value)


def _first(rows: Iterator[Any], source: str) -> Any:
    first = next(rows, None)
    if first is None:
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    return first


def _parquet(file: BufferedReader, path: Path, column: str | None) -> tuple[Documents, Form]:
    # not datasets, which takes longer to import than most files to read, and copies them first
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        form = choose_form(_kinds_of(table.schema_arrow), str(path), column)
        # more threads help nothing where one column is read
        batches = table.iter_batches(ROWS_AT_ONCE, columns=_columns(form, table.schema_arrow), use_threads=False)
        documents = form.documents(_rows_of(batches, path), str(path))
    except (DataError, MemoryError):
        raise
    # whatever it raises, the file is at fault, but for what the disk says
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{str(path)!r} is not a readable table of text: {first_line(error)}; correct the file"
        ) from error
    if not documents:
        raise DataError(f"text {str(path)!r} is a table without rows; pass one with words in it")
    return documents, form


def _rows_of(batches: Iterable[Any], path: Path) -> Iterator[Row]:
    """Yield the rows of a table whose columns are no larger than text may be: a few bytes can repeat one for ever."""
    read, most = 0, most_bytes(path)
    for batch in batches:
        read += batch.nbytes
        if read > most:
            raise too_large(path)
        yield from batch.to_pylist()


def _columns(form: Form, schema: Any) -> list[str]:
    return [*form.columns, *([MASK] if form.kind == "ids" and MASK in schema.names else [])]


def _kinds_of(schema: Any) -> dict[str, Kind | None]:
    """Return what the columns of an Arrow schema hold."""
    from pyarrow import types

    return {field.name: _kind_of(field.type, types) for field in schema}


def _kind_of(kind: Any, types: Any) -> Kind | None:
    if _is_string(kind, types):
        return "text"
    if types.is_struct(kind):
        return "chat" if any(_is_list(kind.field(name).type, types) for name in _speakers(kind)) else None
    if not _is_list(kind, types):
        return None
    item = kind.value_type
    if types.is_struct(item):
        return "chat" if _speakers(item) else None
    return "ids" if types.is_integer(item) else None


def _is_list(kind: Any, types: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _speakers(struct: Any) -> list[str]:
    return [name for name in SPEAKERS if struct.get_field_index(name) >= 0]


def _is_string(kind: Any, types: Any) -> bool:
    """Return whether an Arrow type is one of the layouts of a string; categories are strings too."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view")


def joined_digest(texts: Iterable[str], separator: str) -> str:
    """Return the sha256 of texts joined by a separator, without joining them."""
    digest = sha256()
    for number, text in enumerate(texts):
        digest.update((separator if number else "").encode())
        digest.update(text.encode())
    return digest.hexdigest()

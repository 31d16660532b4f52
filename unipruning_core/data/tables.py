"""Local tables of text: JSON lines, a JSON list, or parquet, read row by row; one column is the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader
from itertools import chain
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from unipruning_core.errors import DataError, first_line

Row = dict[str, Any]
Documents = tuple[str, ...]

BOM = "\ufeff"  # some editors begin a file with it; it is no part of the text
BLOCK_BYTES = 2**20
ROWS_AT_ONCE = 1024


def read_table(path: Path, column: str | None) -> tuple[Documents, str]:
    """Return the text column of a table, and the sha256 of the file's bytes; its ending tells the format.

    Raises:
        OSError: it cannot be read.
        DataError: it is no such table, or has no text column.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.suffix.lower() == ".parquet":
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            documents = _parquet(file, path, column)
        else:
            is_list = path.suffix.lower() == ".json" and file.peek(1).removeprefix(BOM.encode()).lstrip()[:1] == b"["
            rows = _json_list(file, path, digest.update) if is_list else _json_lines(file, path, digest.update)
            documents = _text_of_objects(rows, str(path), column)
    return documents, digest.hexdigest()


def decode(data: bytes, path: Path, start: int = 0) -> str:
    """Decode UTF-8 that begins at byte ``start`` of a file, without a byte order mark.

    Raises:
        DataError: it is not text, with the place.
    """
    if (position := data.find(0)) >= 0:
        raise DataError(f"{str(path)!r} is not text: byte {start + position} is NUL; convert it to UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        place = start + error.start
        raise DataError(f"{str(path)!r} is not text: byte {place} is not UTF-8; convert it to UTF-8") from error
    return text if start else text.removeprefix(BOM)


def choose_column(names: Iterable[str], strings: Iterable[str], source: str, column: str | None) -> str:
    """Return the column that holds the text: ``column``, or else "text", or else the only one of strings.

    Raises:
        DataError: there is no such column.
    """
    names, strings = list(names), list(strings)
    if column is None:
        column = "text" if "text" in names else strings[0] if len(strings) == 1 else None
    if column not in names:
        expected = "a column 'text', or exactly one column of strings" if column is None else f"a column {column!r}"
        raise DataError(f"{source!r} should have {expected}, but has {names}; name the text column with --text-column")
    return column


def text_of_rows(rows: Iterable[Mapping[str, Any]], source: str, column: str) -> Documents:
    """Return the text of every row.

    Raises:
        DataError: a row has no text in this column.
    """
    return tuple(_text_of(row.get(column), number, source, column) for number, row in enumerate(rows, start=1))


def is_encodable(text: str) -> bool:
    """Return whether a string is text: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_of(value: object, number: int, source: str, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{source!r} row {number} should have text in column {column!r}, not {shortened(value)}; correct or remove"
            " the row"
        )
    if not is_encodable(value):
        raise DataError(
            f"{source!r} row {number} has half of a surrogate pair in column {column!r}, which is no character; correct"
            " or remove the row"
        )
    return value


def _text_of_objects(rows: Iterator[Row], source: str, column: str | None) -> Documents:
    """As ``text_of_rows``, with the column chosen; its name often follows from the first row, so no other is kept."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    rows = chain([first], rows)
    column = column or ("text" if "text" in first else None)
    if column is not None and column in first:
        return text_of_rows(rows, source, column)
    names: dict[str, bool] = {}  # whether all values are strings or missing
    held: list[Row] = []
    for row in rows:
        for name, value in row.items():
            names[name] = names.get(name, True) and (value is None or isinstance(value, str))
        held.append({name: value for name, value in row.items() if isinstance(value, str)})
    strings = [name for name, pure in names.items() if pure and any(name in row for row in held)]
    return text_of_rows(held, source, choose_column(names, strings, source, column))


def _json_lines(file: BufferedReader, path: Path, seen: Callable[[bytes], None]) -> Iterator[Row]:
    start = 0
    for number, line in enumerate(file, start=1):
        seen(line)
        text = decode(line, path, start)
        start += len(line)
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{str(path)!r} line {number} is not JSON: {_why(error)}; correct or remove the line"
            ) from error
        yield _object(row, path, f"line {number}")


def _json_list(file: BufferedReader, path: Path, seen: Callable[[bytes], None]) -> Iterator[Row]:
    data = file.read()
    seen(data)
    text = decode(data, path)
    del data
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is not a readable table of text: {_why(error)}; correct the file") from error
    for number, row in enumerate(rows, start=1):
        yield {"text": row} if isinstance(row, str) else _object(row, path, f"row {number}")


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return f"{error.msg} at {line}column {error.colno}"
    return "it has a number of thousands of digits, or too many brackets within brackets"


def _object(row: object, path: Path, part: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"{str(path)!r} {part} should be a JSON object such as {{'text': ...}}, "
            f"not a {type(row).__name__}; correct or remove the {part.partition(' ')[0]}"
        )
    return row


def _parquet(file: BufferedReader, path: Path, column: str | None) -> Documents:
    # not datasets, which takes longer to import than most files to read, and copies them first
    from pyarrow import parquet, types

    try:
        table = parquet.ParquetFile(file)
        strings = [field.name for field in table.schema_arrow if _is_string(field.type, types)]
        chosen = choose_column(table.schema_arrow.names, strings, str(path), column)
        # more threads help nothing where one column is read
        batches = table.iter_batches(ROWS_AT_ONCE, columns=[chosen], use_threads=False)
        rows = ({chosen: value} for batch in batches for value in batch.column(chosen).to_pylist())
        documents = text_of_rows(rows, str(path), chosen)
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
    return documents


def _is_string(kind: Any, types: Any) -> bool:
    """Return whether an Arrow type is one of the layouts of a string; categories are strings too."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view")

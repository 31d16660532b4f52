"""The rows of local tables of text, read one by one: JSON lines, a JSON list, and values with separators."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from unipruning_core.data.files import BOM, decode, decoded_lines
from unipruning_core.data.forms import CONVERSATIONS, IDS, kind_of_value
from unipruning_core.data.sources import ending_of
from unipruning_core.errors import DataError, first_line

Row = dict[str, Any]

SEPARATORS = {"csv": ",", "tsv": "\t"}
OTHER_SEPARATORS = ";\t|"  # of files that are called .csv all the same
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131072


def json_rows(file: BufferedReader, path: Path) -> Iterator[Row]:
    """Yield the objects of JSON lines, or of one JSON list in a file called .json.

    Raises:
        DataError: the file or a line is no JSON object, with the place.
    """
    listed = ending_of(path) == ".json" and file.peek(1).removeprefix(BOM.encode()).lstrip()[:1] == b"["
    return _json_list(file, path) if listed else _json_lines(file, path)


def separated_rows(file: BufferedReader, path: Path, kind: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a .csv or .tsv file, by the names in its first line.

    A .csv file whose first line has no comma may have semicolons, tabs or bars.

    Raises:
        DataError: the file is not such a table, with the row.
    """
    lines = decoded_lines(file, path)
    first = next(lines, "")
    separator = SEPARATORS[kind]
    if separator not in first:
        separator = next((other for other in OTHER_SEPARATORS if other in first), separator)
    header: list[str] = []
    number = 0
    with _long_cells():
        reader = csv.reader(_chained(first, lines), delimiter=separator, strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if not header:
                    header = [name.strip() for name in cells]
                    _check_header(header, path)
                    continue
                number += 1
                if len(cells) != len(header):
                    raise DataError(
                        f"{str(path)!r} row {number} (line {reader.line_num}) should have {len(header)} cells, as the "
                        f"first line has, not {len(cells)}; correct or remove the row"
                    )
                yield dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{str(path)!r} row {number + 1} (line {reader.line_num}) is not a row of a table: "
                f"{first_line(error)}; correct or remove the row"
            ) from error


def is_number(text: str) -> bool:
    """Return whether a cell is a number, such as a label or an index, and no text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _check_header(header: list[str], path: Path) -> None:
    twice = next((name for at, name in enumerate(header) if name in header[:at]), None)
    if twice is not None:
        raise DataError(
            f"the first line of {str(path)!r} should name its columns, each once, but has {twice!r} twice; correct it"
        )


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be as long as documents are."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _json_lines(file: BufferedReader, path: Path) -> Iterator[Row]:
    for number, text in enumerate(decoded_lines(file, path), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{str(path)!r} line {number} is not JSON: {_why(error)}; correct or remove the line"
            ) from error
        yield _object(row, path, f"line {number}")


def _json_list(file: BufferedReader, path: Path) -> Iterator[Row]:
    text = decode(file.read(), path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is not a readable table of text: {_why(error)}; correct the file") from error
    del text
    for number, row in enumerate(rows, start=1):
        yield {"text": row} if isinstance(row, str) else _object(row, path, f"row {number}")


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return f"{error.msg} at {line}column {error.colno}"
    return "it has a number of thousands of digits, or too many brackets within brackets"


def _object(row: object, path: Path, part: str) -> Row:
    """Return a row as an object; a bare conversation or list of token ids is the only column of its row."""
    kind = None if isinstance(row, str) else kind_of_value(row)
    if kind is not None:
        return {CONVERSATIONS[0] if kind == "chat" else IDS: row}
    if not isinstance(row, dict):
        raise DataError(
            f"{str(path)!r} {part} should be a JSON object such as {{'text': ...}}, "
            f"not a {type(row).__name__}; correct or remove the {part.partition(' ')[0]}"
        )
    return row

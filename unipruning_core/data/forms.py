"""The forms in which a row holds a document: a text, a conversation, or token ids, in columns that are chosen here."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any, Literal

from unipruning_core.errors import DataError

Row = Mapping[str, Any]
Kind = Literal["text", "chat", "ids"]  # of a column

CONVERSATIONS = ("messages", "conversations", "conversation")
IDS, MASK = "input_ids", "attention_mask"
# columns that together are a conversation, the last of them its answer
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "response"),
)
SPEAKERS = ("role", "from")  # the keys of a message that may name its role
# what data sets call the roles of chat templates
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
QUOTED = 80  # characters of a row in a message
NAMED = 12  # columns that a message names


@dataclass(frozen=True)
class Chat:
    """A conversation, which becomes text by a tokenizer's chat template."""

    messages: tuple[Mapping[str, Any], ...]  # with role and content
    place: str  # where it came from, for messages


@dataclass(frozen=True)
class Ids:
    """Token ids, used as they are."""

    ids: array[int]  # of type "q"


Document = str | Chat | Ids


@dataclass(frozen=True)
class Form:
    """Which columns of a table are read, and as what."""

    kind: Literal["text", "chat", "pair", "ids"]
    columns: tuple[str, ...]

    def __str__(self) -> str:
        names = " and ".join(repr(name) for name in self.columns)
        what = {"text": "text", "chat": "conversations", "pair": "conversations", "ids": "token ids"}[self.kind]
        return f"{what} in column{'s' if len(self.columns) > 1 else ''} {names}"

    def documents(self, rows: Iterable[Row], source: str) -> tuple[Document, ...]:
        """Return the document of every row.

        Raises:
            DataError: a row has none.
        """
        return tuple(self._document(row, f"{source!r} row {number}") for number, row in enumerate(rows, start=1))

    def _document(self, row: Row, place: str) -> Document:
        [column, *_] = self.columns
        if self.kind == "text":
            return _text(row.get(column), place, column)
        if self.kind == "ids":
            return _ids(row.get(column), row.get(MASK), place, column)
        if self.kind == "chat":
            return Chat(tuple(_messages(row.get(column), place, column, "user")), place)
        *asked, answer = self.columns
        if all(isinstance(row.get(name), str) for name in asked):
            words = "\n\n".join(_text(row[name], place, name) for name in asked if row[name])
            messages: list[Mapping[str, Any]] = [{"role": "user", "content": words}]
        else:
            messages = [message for name in asked for message in _messages(row.get(name), place, name, "user")]
        return Chat((*messages, *_messages(row.get(answer), place, answer, "assistant")), place)


def choose_form(kinds: Mapping[str, Kind | None], source: str, column: str | None) -> Form:
    """Return what is read of a table: ``column``, or else what its columns are known to hold.

    Without a column, that is "text"; or a conversation, by the names of ``CONVERSATIONS`` and ``PAIRS``; or
    "input_ids"; or the only column of strings.  ``kinds`` has every column, with None for one that is no document.

    Raises:
        DataError: there is no such column, or no telling which.
    """
    if (form := known_form(kinds, column)) is not None:
        return form
    strings = [name for name, kind in kinds.items() if kind == "text"]
    if column is None and len(strings) == 1:
        return Form("text", (strings[0],))
    offered = [name for name, kind in kinds.items() if kind is not None]
    wanted = "a column 'text', or exactly one column of strings" if column is None else f"a column {column!r}"
    if not offered:
        raise DataError(
            f"{source!r} should have {wanted}, but has {_listed(kinds)}, none of which holds text, conversations or "
            "token ids; pass a table with such a column"
        )
    raise DataError(
        f"{source!r} should have {wanted}, but has {_listed(offered)}; name the text column with --text-column"
    )


def known_form(kinds: Mapping[str, Kind | None], column: str | None) -> Form | None:
    """Return what is read if the names alone tell, as in ``choose_form``."""
    name = "text" if column is None else column
    if name in kinds:
        return Form(kinds[name] or "text", (name,))
    if column is not None:
        return None
    for name in CONVERSATIONS:
        if kinds.get(name) == "chat":
            return Form("chat", (name,))
    for names in PAIRS:
        if all(kinds.get(name) in ("text", "chat") for name in names):
            return Form("pair", names)
    return Form("ids", (IDS,)) if kinds.get(IDS) == "ids" else None


def kind_of_value(value: object) -> Kind | None:
    """Return what a cell holds, or None if it is no document."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "chat" if any(isinstance(value.get(name), list) for name in SPEAKERS) else None
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(item, Mapping) and any(name in item for name in SPEAKERS) for item in value):
        return "chat"
    return "ids" if all(type(item) is int for item in value) else None


def digested(document: Document) -> str:
    """Return a document as the text that a checksum covers."""
    if isinstance(document, Ids):
        return " ".join(map(str, document.ids))
    if isinstance(document, Chat):
        return json.dumps(document.messages, sort_keys=True, ensure_ascii=False, default=str)
    return document


def is_blank(document: Document) -> bool:
    """Return whether a document has nothing in it."""
    if isinstance(document, Ids):
        return not document.ids
    if isinstance(document, Chat):
        return not any(str(message.get("content") or "").strip() for message in document.messages)
    return not document.strip()


def beginning(document: Document, characters: int) -> str:
    """Return the first words of a document, to quote it."""
    if isinstance(document, Ids):
        text = f"token ids {' '.join(map(str, document.ids[:characters]))}"
    elif isinstance(document, Chat):
        text = " ".join(str(message.get("content") or "")[: 4 * characters] for message in document.messages[:2])
    else:
        text = document
    return " ".join(text[: 4 * characters].split())[:characters]


def is_encodable(text: str) -> bool:
    """Return whether a string is text: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(value: object) -> str:
    """Return a value as a message quotes it."""
    words = shortened(value)
    return words if len(words) <= QUOTED else f"{words[: QUOTED - 3]}..."


def _text(value: object, place: str, column: str) -> str:
    if not isinstance(value, str):
        raise _unlike("text", value, place, column)
    if not is_encodable(value):
        raise DataError(
            f"{place} has half of a surrogate pair in column {column!r}, which is no character; correct or remove the "
            "row"
        )
    return value


def _ids(value: object, mask: object, place: str, column: str) -> Ids:
    if not isinstance(value, Sequence) or not all(type(token) is int and 0 <= token < 1 << 63 for token in value):
        raise _unlike("token ids", value, place, column)
    if mask is None:
        return Ids(array("q", value))
    if not isinstance(mask, Sequence) or len(mask) != len(value):
        raise _unlike(f"as many numbers as {column!r}", mask, place, MASK)
    # padding is no text
    return Ids(array("q", (token for token, used in zip(value, mask, strict=True) if used)))


def _messages(value: object, place: str, column: str, role: str) -> Iterable[Mapping[str, Any]]:
    """Yield messages with role and content; a plain text is one of ``role``."""
    if isinstance(value, str) and role == "assistant":
        value = [{"role": role, "content": value}]
    if kind_of_value(value) != "chat":
        raise _unlike("messages with role and content", value, place, column)
    # older data sets store a list of messages as one message of lists
    if isinstance(value, Mapping):
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    for message in value:  # type: ignore[attr-defined]  # it is a list, or it would be no chat
        held = {name: item for name, item in message.items() if item is not None and name not in ("from", "value")}
        spoken = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if isinstance(content, Sequence) and not isinstance(content, str):
            parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
            texts = [part for part in parts if isinstance(part, str)]
            content = "".join(texts) if len(texts) == len(parts) else content
        if not isinstance(spoken, str) or not (isinstance(content, str) or (content is None and "tool_calls" in held)):
            raise _unlike("messages with role and text content", message, place, column)
        yield {**held, "role": ROLES.get(spoken, spoken), "content": _text(content or "", place, column)}


def _unlike(wanted: str, value: object, place: str, column: str) -> DataError:
    return DataError(
        f"{place} should have {wanted} in column {column!r}, not {quoted(value)}; correct or remove the row"
    )


def _listed(names: Iterable[str]) -> str:
    names = [quoted(name) for name in names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"[{', '.join(names[:NAMED])}]{more}"

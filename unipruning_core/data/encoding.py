"""Documents of any form as token ids, of which no more are made than needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from unipruning_core.data.forms import Chat, Document, Ids
from unipruning_core.data.pieces import OVERLAP, PIECE, WHOLE, pieces
from unipruning_core.errors import DataError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.progress import Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def characters(document: Document) -> int:
    """Return about how many characters a tokenizer would see of a document."""
    if isinstance(document, Ids):
        return 0
    if isinstance(document, Chat):
        return sum(len(message["content"]) for message in document.messages)
    return len(document)


def document_ids(tokenizer: PreTrainedTokenizerBase, document: Document, needed: int | None = None) -> list[int]:
    """Return the token ids of a document: all, or of a long one at least the first ``needed``.

    A text is tokenised with the tokenizer's defaults; a conversation has the special tokens of its template alone.

    Raises:
        DataError: the tokenizer fails, or has no template for a conversation.
    """
    return _first(_streamed(tokenizer, [document]), needed, Task())


def joined_ids(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    join: str,
    needed: int | None = None,
    progress: Progress | None = None,
) -> list[int]:
    """Return the token ids of documents one after the other: all, or at least the first ``needed``.

    Texts are joined by ``join`` and tokenised as one; conversations and token ids follow each other as they are.

    Raises:
        DataError: as ``document_ids``.
    """
    if all(isinstance(document, str) for document in documents):
        made = pieces(tokenizer, _between(documents, join))
    else:
        made = _streamed(tokenizer, documents)
    length = sum(map(characters, documents))
    if length <= WHOLE or progress is None:
        return _first(made, needed, Task())
    # how many tokens the whole has is not known before
    total, unit = (-(-length // (PIECE - OVERLAP)), "pieces") if needed is None else (needed, "tokens")
    with progress.task("tokenising", total, unit) as task:
        return _first(made, needed, task)


def rendered(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> str:
    """Return a conversation as its model reads it.

    Raises:
        DataError: the tokenizer has no chat template, or its template refuses the conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{chat.place} is a conversation, but the model's tokenizer has no chat template; take a model with one, "
            "or name a column of plain text with --text-column"
        )
    what = f"the tokenizer's chat template fails on {chat.place}"
    with library_errors_as(DataError, what, "correct or remove the row"):
        text: str = tokenizer.apply_chat_template([dict(message) for message in chat.messages], tokenize=False)
    return text


def _between(documents: Iterable[Document], join: str) -> Iterator[str]:
    for number, document in enumerate(documents):
        if number:
            yield join
        yield str(document)


def _streamed(tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document]) -> Iterator[list[int]]:
    for document in documents:
        if isinstance(document, Ids):
            yield list(document.ids)
        elif isinstance(document, Chat):
            yield from pieces(tokenizer, [rendered(tokenizer, document)], special=False)
        else:
            yield from pieces(tokenizer, [document])


def _first(made: Iterable[list[int]], needed: int | None, task: Task) -> list[int]:
    ids: list[int] = []
    for some in made:
        task.advance(1 if needed is None else min(len(some), needed - len(ids)))
        ids += some
        if needed is not None and len(ids) >= needed:
            break
    return ids

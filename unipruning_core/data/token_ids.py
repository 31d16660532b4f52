"""Token ids as tensors, and whether a model has an embedding for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def id_tensor(ids: Sequence[int], source: str) -> Tensor:
    """Return token ids as a tensor, (tokens,) int64; ``source`` is the text in messages.

    Raises:
        DataError: one is no number that a model could look up, such as None for a word that the tokenizer lacks.
    """
    try:
        made = torch.tensor(ids, dtype=torch.int64)
    # None, text, a number beyond 64 bits
    except (TypeError, ValueError, RuntimeError, OverflowError):
        strange = next((token for token in ids if type(token) is not int or abs(token) >= 1 << 63), None)
        raise _unknown(f"gives {strange!r} for a token", source) from None
    if made.numel() and int(made.min()) < 0:
        raise _unknown(f"gives the token id {int(made.min())}", source)
    return made


def check_ids(
    batches: Iterable[Tensor], source: str, vocabulary: int, rows: Callable[[], int | None], *, stored: bool = False
) -> None:
    """Refuse token ids beyond the input embedding.

    An id below ``vocabulary``, the config's number of tokens, is in it; for others ``rows`` counts the rows there are,
    which some models have more of, or returns None if it cannot.  ``stored`` ids are the text's own.

    Raises:
        DataError: an id has no row.
    """
    largest = max((int(batch.max()) for batch in batches if batch.numel()), default=-1)
    if largest >= vocabulary and (held := rows()) is not None and largest >= held:
        if stored:
            raise DataError(
                f"{source!r} has the token id {largest}, but the model's embedding has only {held} rows; pass ids that "
                "the model's own tokenizer made"
            )
        raise _unknown(f"gives the token id {largest}, but the model's embedding has only {held} rows", source)


def _unknown(what: str, source: str) -> DataError:
    return DataError(
        f"the tokenizer does not belong to the model: on {source!r} it {what}; use the tokenizer files that came with "
        "the model"
    )

"""Token ids of texts of any length: tokenised piece by piece, and no further than needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipruning_core.errors import DataError
from unipruning_core.models.borders import library_errors_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHOLE = 2**17  # characters; no more are ever tokenised at once, unless two pieces cannot be joined
PIECE, OVERLAP = 2**16, 2**10  # characters of a piece of a longer text, and of those that the next one repeats
RUN = 8  # tokens in a row that two pieces must share to be joined
MOST_PER_CHARACTER = 4  # tokens: the bytes of a character
EDGE = 32  # tokens beside a cut that may differ from those of the whole text

Key = tuple[int, ...]  # a token and, where known, the characters that it stands for


@dataclass(frozen=True)
class _Piece:
    """The tokens of a piece that begins at character ``start`` of the text."""

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]] | None  # the characters of each token, counted from the piece's first
    start: int

    def keys(self, begin: int, end: int) -> list[Key]:
        if self.spans is None:
            return [(token,) for token in self.ids[begin:end]]
        spans = self.spans[begin:end]
        return [
            (token, first + self.start, last + self.start)
            for token, (first, last) in zip(self.ids[begin:end], spans, strict=True)
        ]


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> list[int]:
    """Return the token ids, with the tokenizer's defaults but without its warning about long texts.

    ``special`` tells whether the tokenizer adds its special tokens.
    """
    return list(_tokenised(tokenizer, text, special, spans=False).ids)


def pieces(tokenizer: PreTrainedTokenizerBase, parts: Iterable[str], *, special: bool = True) -> Iterator[list[int]]:
    """Yield the token ids of the text that the parts make together, some at a time.

    A text of up to ``WHOLE`` characters is tokenised at once, a longer one in pieces of ``PIECE`` characters, each of
    which repeats the last ``OVERLAP`` characters of the one before.  Two are joined in the middle of where they agree:
    where ``RUN`` tokens in a row are the same, for the same characters if the tokenizer tells those.  So the ids are
    those of the text tokenised at once, for every tokenizer whose tokens depend on the characters around them alone.
    Where pieces do not agree, the first is made twice as long.
    """
    reader = _Reader(parts)
    if len(text := reader.ahead(WHOLE + 1)) <= WHOLE:
        yield token_ids(tokenizer, text, special=special)
        return
    spans = bool(getattr(tokenizer, "is_fast", False))
    size, used = PIECE, 0
    left = _tokenised(tokenizer, reader.ahead(size), special, spans)
    while True:
        kept = size - OVERLAP
        text = reader.ahead(kept + PIECE)
        if len(text) <= size:
            yield list(left.ids[used:])
            return
        right = _tokenised(tokenizer, text[kept:], special, spans, left.start + kept)
        if (joint := _joint(left, right)) is None or joint[0] < used:
            size *= 2
            left = _tokenised(tokenizer, reader.ahead(size), special, spans, left.start)
            continue
        yield list(left.ids[used : joint[0]])
        reader.drop(kept)
        left, used, size = right, joint[1], PIECE


def window(tokenizer: PreTrainedTokenizerBase, text: str, start: int, length: int, characters: int) -> list[int] | None:
    """Return ``length`` token ids of the text from soon after ``start`` on, or None if it ends before.

    About ``characters`` are looked at.  ``EDGE`` tokens beside each cut are left out.
    """
    while True:
        end = start + characters
        ids = token_ids(tokenizer, text[start:end], special=False)
        if len(ids) - (EDGE if end < len(text) else 0) >= EDGE + length:
            return ids[EDGE : EDGE + length]
        if end >= len(text):
            return None
        characters *= 2


class _Reader:
    """The characters of a text in parts, of which only those ahead are held."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._blocks = (part[at : at + PIECE] for part in parts for at in range(0, len(part), PIECE))
        self._held = ""

    def ahead(self, count: int) -> str:
        """Return the next ``count`` characters, or as many as there are."""
        held, have = [self._held], len(self._held)
        while have < count and (block := next(self._blocks, None)) is not None:
            held.append(block)
            have += len(block)
        self._held = "".join(held)
        return self._held[:count]

    def drop(self, count: int) -> None:
        self._held = self._held[count:]


def _tokenised(tokenizer: PreTrainedTokenizerBase, text: str, special: bool, spans: bool, start: int = 0) -> _Piece:
    options: dict[str, bool] = {"return_offsets_mapping": True} if spans else {}
    if not special:
        options["add_special_tokens"] = False
    with library_errors_as(DataError, "the model's tokenizer fails on the text", "check the tokenizer and the text"):
        made = tokenizer(text, verbose=False, **options)
        return _Piece(made["input_ids"], made["offset_mapping"] if spans else None, start)


def _joint(left: _Piece, right: _Piece) -> tuple[int, int] | None:
    """Return after how many tokens of each two overlapping pieces say the same, or None if they never do."""
    most = MOST_PER_CHARACTER * OVERLAP
    begin = max(0, len(left.ids) - most)
    ours, theirs = _runs(left.keys(begin, len(left.ids))), _runs(right.keys(0, most))
    shared = [(begin + at, theirs[run]) for run, at in ours.items() if run in theirs]
    if not shared:
        return None
    # a tokenizer that tells no characters may find a phrase again elsewhere; the overlap is where most runs agree
    [(apart, _)] = Counter(mine - other for mine, other in shared).most_common(1)
    agreed = sorted(pair for pair in shared if pair[0] - pair[1] == apart)
    mine, other = agreed[len(agreed) // 2]
    return mine + RUN // 2, other + RUN // 2


def _runs(keys: Sequence[Key]) -> dict[tuple[Key, ...], int]:
    """Return where each run of ``RUN`` tokens begins, of those that occur once."""
    runs = [tuple(keys[at : at + RUN]) for at in range(len(keys) - RUN + 1)]
    times = Counter(runs)
    return {run: at for at, run in enumerate(runs) if times[run] == 1}

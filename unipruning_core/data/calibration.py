"""Calibration samples: seeded windows of token ids, the same on every machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from unipruning_core.data.encoding import document_ids, joined_ids
from unipruning_core.data.forms import Document, beginning
from unipruning_core.data.pieces import EDGE, token_ids, window
from unipruning_core.data.text import Text, TextChoice
from unipruning_core.data.token_ids import id_tensor
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.progress import Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Packing = Literal["packed", "document"]
MOST_SAMPLES, LONGEST_SAMPLE = 1 << 20, 1 << 24  # beyond these a number is a slip
SHORTEST_DOCUMENT = 16  # tokens; a shorter one says little about a model
LONG = 2**20  # characters; of a longer text only the windows that are used are tokenised
GAUGED = 2**12  # characters that tell how many make a token
SHOWN = 2**15  # tokens; making more from several documents takes long enough to show
QUOTED = 60  # characters of a document in a message
NAMED = 3  # documents that a message names, of those that a sample came from


@dataclass(frozen=True)
class DataChoice:
    """Which text to calibrate on, and how it is cut into samples."""

    text: TextChoice
    samples: int = 128
    seq_len: int | None = None  # tokens; None for 2048, or all positions of a model with fewer
    packing: Packing = "packed"

    def __post_init__(self) -> None:
        check_size(self.samples, self.seq_len)


def check_size(samples: int, seq_len: int | None) -> None:
    """Refuse what no search can have meant, before any text is read.

    Raises:
        ConfigError: there are too many samples, or they are too long.
    """
    if samples > MOST_SAMPLES or (seq_len or 0) > LONGEST_SAMPLE:
        raise ConfigError(
            f"calibration takes at most {MOST_SAMPLES} --samples of at most {LONGEST_SAMPLE} tokens each (--seq-len),"
            f" not {samples} of {seq_len or 'the default'}"
        )


@dataclass(frozen=True)
class Origin:
    """Where a sample came from."""

    documents: tuple[int, ...]  # their numbers in the source, from 1, in the order of the sample
    quotation: str  # the first words of the first of them
    source: str = ""  # of a mixture's part

    def __str__(self) -> str:
        where = f" of {self.source!r}" if self.source else ""
        first = f"document {self.documents[0]}{where}, which begins {self.quotation!r}"
        others = [str(number) for number in self.documents[1:NAMED]]
        if (more := len(self.documents) - NAMED) > 0:
            others.append(f"{more} more")
        return f"{first}, and {', '.join(others)}" if others else first


@dataclass(frozen=True)
class Calibration:
    """The samples of one search."""

    batches: list[Tensor]  # each (1, length), int64, on the CPU
    tokens: int
    fingerprint: str  # sha256 of the token ids and of where each sample ends
    passed_over: int = 0  # documents that were too short to be a sample
    origins: Sequence[Origin] = ()  # of each sample, where known


def calibration_batches(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    packing: Packing = "packed",
    progress: Progress | None = None,
) -> Calibration:
    """Draw ``samples`` sequences of at most ``seq_len`` tokens from the text.

    "packed": documents in seeded order, concatenated and cut into windows of exactly ``seq_len``; a single document
    is cut first, and its windows are drawn in seeded order; of a single text longer than ``LONG``, windows are drawn as
    ``_place`` says.  "document": one document per sample, cut at ``seq_len``; a shorter one keeps its length, so there
    is no padding.  A mixture gives each part its ``shares`` of the samples, drawn from it alone, in seeded order.

    Raises:
        ConfigError: a number is out of range, or the packing is unknown.
        DataError: the text is too short for them.
    """
    if samples < 1 or seq_len < 2:
        raise ConfigError(f"calibration needs --samples >= 1 and --seq-len >= 2, not {samples!r} and {seq_len!r}")
    if text.parts:
        return _mixed(text, tokenizer, samples, seq_len, seed, packing, progress)
    order = torch.Generator().manual_seed(seed)
    passed_over = 0
    if packing == "packed":
        batches, sources = _packed(text, tokenizer, samples, seq_len, order, progress or Progress())
    elif packing == "document":
        batches, sources, passed_over = _one_a_document(text, tokenizer, samples, seq_len, order)
    else:
        raise ConfigError(f"--packing must be 'packed' or 'document', not {packing!r}")
    if passed_over and progress is not None:
        progress.note(f"skipped {passed_over} documents of {text.source!r} shorter than {SHORTEST_DOCUMENT} tokens")
    tokens = sum(batch.numel() for batch in batches)
    origins = [_origin(text, documents) for documents in sources]
    return Calibration(batches, tokens, _fingerprint(batches), passed_over, origins)


def shares(text: Text, samples: int) -> list[int]:
    """Return how many samples each part of a mixture gives: by its weight, rounded so that they add up.

    Raises:
        DataError: a part would give none.
    """
    total = sum(weight for weight, _ in text.parts)
    exact = [samples * weight / total for weight, _ in text.parts]
    counts = [int(share) for share in exact]
    for index in sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])[: samples - sum(counts)]:
        counts[index] += 1
    if 0 in counts:
        raise DataError(
            f"each text of a mixture should give a sample, but of {samples} none would be from "
            f"{text.parts[counts.index(0)][1].source!r}; pass more --samples or a larger weight"
        )
    return counts


def _mixed(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    samples: int,
    seq_len: int,
    seed: int,
    packing: Packing,
    progress: Progress | None,
) -> Calibration:
    batches: list[Tensor] = []
    origins: list[Origin] = []
    passed_over = 0
    for count, (_, part) in zip(shares(text, samples), text.parts, strict=True):
        drawn = calibration_batches(
            part, tokenizer, samples=count, seq_len=seq_len, seed=seed, packing=packing, progress=progress
        )
        batches += drawn.batches
        origins += [replace(origin, source=part.source) for origin in drawn.origins]
        passed_over += drawn.passed_over
    order = _shuffled(samples, torch.Generator().manual_seed(seed))
    batches = [batches[index] for index in order]
    tokens = sum(batch.numel() for batch in batches)
    return Calibration(batches, tokens, _fingerprint(batches), passed_over, [origins[index] for index in order])


def _packed(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    samples: int,
    seq_len: int,
    order: torch.Generator,
    progress: Progress,
) -> tuple[list[Tensor], list[list[int]]]:
    """Return windows, and the documents of each."""
    if len(text.documents) == 1 and (place := _place(text.documents[0], tokenizer, samples, seq_len)):
        spread = _spread(text, tokenizer, samples, seq_len, place, order, progress)
        if len(spread) == samples:
            return spread, [[0]] * samples
    needed = samples * seq_len
    ids: list[int] = []
    documents: list[list[int]] = []  # of each window, begun ones included
    several = len(text.documents) > 1
    shown = progress.task("tokenising", needed, "tokens") if several and needed > SHOWN else nullcontext(Task())
    with shown as task:
        for index in _shuffled(len(text.documents), order):
            begin = len(ids)
            if several:
                ids += document_ids(tokenizer, text.documents[index], needed - begin)
            else:
                # any window of it may be drawn
                ids = joined_ids(tokenizer, text.documents, "", progress=progress)
            task.advance(min(len(ids), needed) - begin)
            documents += [[] for _ in range(-(-len(ids) // seq_len) - len(documents))]
            for at in range(begin // seq_len, -(-len(ids) // seq_len) if len(ids) > begin else 0):
                documents[at].append(index)
            if len(ids) >= needed:
                break
    if len(ids) < needed:
        raise DataError(
            f"{samples} samples of {seq_len} tokens need {needed} tokens, but {text.source!r} has only {len(ids)}; "
            "pass fewer --samples, a shorter --seq-len or more text"
        )
    windows = id_tensor(ids[: len(ids) // seq_len * seq_len], text.source).view(-1, 1, seq_len)
    # the documents are in seeded order already; a single one has only its windows to shuffle
    chosen = range(len(windows)) if several else _shuffled(len(windows), order)
    return [windows[index].clone() for index in chosen[:samples]], [documents[index] for index in chosen[:samples]]


def _one_a_document(
    text: Text, tokenizer: PreTrainedTokenizerBase, samples: int, seq_len: int, order: torch.Generator
) -> tuple[list[Tensor], list[list[int]], int]:
    """Return samples, the document of each, and how many documents were too short."""
    batches: list[Tensor] = []
    documents: list[list[int]] = []
    passed_over = tokens = 0
    for index in _shuffled(len(text.documents), order):
        ids = document_ids(tokenizer, text.documents[index], seq_len)
        if len(ids) < SHORTEST_DOCUMENT:
            passed_over += 1
            continue
        tokens += len(ids)
        batches.append(id_tensor(ids[:seq_len], text.source)[None])
        documents.append([index])
        if len(batches) == samples:
            return batches, documents, passed_over
    raise DataError(
        f"{samples} samples need as many documents of {SHORTEST_DOCUMENT} tokens or more, but {text.source!r} has only "
        f"{len(batches)} ({tokens} tokens); pass fewer --samples, --packing packed or more text"
    )


def _place(document: Document, tokenizer: PreTrainedTokenizerBase, samples: int, seq_len: int) -> int:
    """Return the characters of each place of a long text that a window may be drawn from.

    They are those of about twice as many tokens as a window has, by the beginning of the text.  A text of up to
    ``LONG`` characters, or without twice as many places as samples, is to be tokenised as a whole: 0.
    """
    if not isinstance(document, str) or len(document) <= LONG:
        return 0
    begin = document[:GAUGED]
    size = math.ceil(2 * (seq_len + 2 * EDGE) * len(begin) / max(1, len(token_ids(tokenizer, begin))))
    return size if len(document) // size >= 2 * samples else 0


def _spread(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    samples: int,
    seq_len: int,
    place: int,
    order: torch.Generator,
    progress: Progress,
) -> list[Tensor]:
    """Return a window from the beginning of each of some places of a long text, which are all as likely."""
    document = str(text.documents[0])
    batches: list[Tensor] = []
    with progress.task("tokenising", samples * seq_len, "tokens") as task:
        for index in _shuffled(len(document) // place, order):
            # one that the text ends in may be too short
            if (ids := window(tokenizer, document, index * place, seq_len, place)) is not None:
                batches.append(id_tensor(ids, text.source)[None])
                task.advance(seq_len)
            if len(batches) == samples:
                break
    return batches


def _origin(text: Text, documents: Sequence[int]) -> Origin:
    return Origin(tuple(index + 1 for index in documents), beginning(text.documents[documents[0]], QUOTED))


def _shuffled(count: int, order: torch.Generator) -> list[int]:
    shuffled: list[int] = torch.randperm(count, generator=order).tolist()
    return shuffled


def _fingerprint(batches: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.numel().to_bytes(8, "little"))
        digest.update(batch.numpy().astype("<i8").tobytes())
    return digest.hexdigest()

"""Calibration samples: seeded windows of token ids, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from unipruning_core.data.text import Text, TextChoice, token_ids
from unipruning_core.data.token_ids import id_tensor
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Packing = Literal["packed", "document"]
MOST_SAMPLES, LONGEST_SAMPLE = 1 << 20, 1 << 24  # beyond these a number is a slip
SHORTEST_DOCUMENT = 16  # tokens; a shorter one says little about a model
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

    def __str__(self) -> str:
        first = f"document {self.documents[0]}, which begins {self.quotation!r}"
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
    is cut first, and its windows are drawn in seeded order.  "document": one document per sample, cut at ``seq_len``.

    Raises:
        ConfigError: a number is out of range, or the packing is unknown.
        DataError: the text is too short for them.
    """
    if samples < 1 or seq_len < 2:
        raise ConfigError(f"calibration needs --samples >= 1 and --seq-len >= 2, not {samples!r} and {seq_len!r}")
    order = torch.Generator().manual_seed(seed)
    passed_over = 0
    if packing == "packed":
        batches, sources = _packed(text, tokenizer, samples, seq_len, order)
    elif packing == "document":
        batches, sources, passed_over = _one_a_document(text, tokenizer, samples, seq_len, order)
    else:
        raise ConfigError(f"--packing must be 'packed' or 'document', not {packing!r}")
    if passed_over and progress is not None:
        progress.note(f"skipped {passed_over} documents of {text.source!r} shorter than {SHORTEST_DOCUMENT} tokens")
    tokens = sum(batch.numel() for batch in batches)
    origins = [_origin(text, documents) for documents in sources]
    return Calibration(batches, tokens, _fingerprint(batches), passed_over, origins)


def _packed(
    text: Text, tokenizer: PreTrainedTokenizerBase, samples: int, seq_len: int, order: torch.Generator
) -> tuple[list[Tensor], list[list[int]]]:
    """Return windows, and the documents of each."""
    needed = samples * seq_len
    ids: list[int] = []
    documents: list[list[int]] = []  # of each window, begun ones included
    for index in _shuffled(len(text.documents), order):
        begin = len(ids)
        ids += token_ids(tokenizer, text.documents[index])
        documents += [[] for _ in range(-(-len(ids) // seq_len) - len(documents))]
        for window in range(begin // seq_len, -(-len(ids) // seq_len) if len(ids) > begin else 0):
            documents[window].append(index)
        if len(ids) >= needed:
            break
    if len(ids) < needed:
        raise DataError(
            f"{samples} samples of {seq_len} tokens need {needed} tokens, but {text.source!r} has only {len(ids)}; "
            "pass fewer --samples, a shorter --seq-len or more text"
        )
    windows = id_tensor(ids[: len(ids) // seq_len * seq_len], text.source).view(-1, 1, seq_len)
    # the documents are in seeded order already; a single one has only its windows to shuffle
    chosen = _shuffled(len(windows), order) if len(text.documents) == 1 else range(len(windows))
    return [windows[index].clone() for index in chosen[:samples]], [documents[index] for index in chosen[:samples]]


def _one_a_document(
    text: Text, tokenizer: PreTrainedTokenizerBase, samples: int, seq_len: int, order: torch.Generator
) -> tuple[list[Tensor], list[list[int]], int]:
    """Return samples, the document of each, and how many documents were too short."""
    batches: list[Tensor] = []
    documents: list[list[int]] = []
    passed_over = tokens = 0
    for index in _shuffled(len(text.documents), order):
        ids = token_ids(tokenizer, text.documents[index])
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


def _origin(text: Text, documents: Sequence[int]) -> Origin:
    words = text.documents[documents[0]][: 4 * QUOTED].split()
    return Origin(tuple(index + 1 for index in documents), " ".join(words)[:QUOTED])


def _shuffled(count: int, order: torch.Generator) -> list[int]:
    shuffled: list[int] = torch.randperm(count, generator=order).tolist()
    return shuffled


def _fingerprint(batches: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.numel().to_bytes(8, "little"))
        digest.update(batch.numpy().astype("<i8").tobytes())
    return digest.hexdigest()

"""Calibration batches: seeded, exact in number, and tokenised no more than needed."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from unipruning_core.data.calibration import Origin, calibration_batches
from unipruning_core.data.text import Text
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.progress import Progress

WORDS = 4000
BOS = WORDS


def make_tokenizer(**options: object) -> PreTrainedTokenizerFast:
    """One token a word: "w17" is 17."""
    vocabulary = {f"w{index}": index for index in range(WORDS)} | {"<s>": BOS}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def words(start: int, stop: int) -> str:
    return " ".join(f"w{index}" for index in range(start, stop))


def documents(*lengths: int) -> Text:
    """Make documents of these lengths in which no word occurs twice."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return Text(tuple(words(end - length, end) for end, length in zip(ends, lengths, strict=True)), "made up", "0" * 64)


def flat(batches: list[torch.Tensor]) -> list[int]:
    return [token for batch in batches for token in batch[0].tolist()]


def test_one_long_document_gives_distinct_aligned_windows_from_all_over_it():
    drawn = calibration_batches(documents(1000), make_tokenizer(), samples=8, seq_len=20, seed=0)
    starts = [batch[0, 0].item() for batch in drawn.batches]
    assert all(batch.shape == (1, 20) and batch.dtype == torch.int64 for batch in drawn.batches)
    assert all(batch[0].tolist() == list(range(s, s + 20)) for batch, s in zip(drawn.batches, starts, strict=True))
    assert all(start % 20 == 0 for start in starts)
    assert len(set(starts)) == 8
    assert max(starts) > 8 * 20
    assert drawn.tokens == 160


def test_packed_documents_follow_each_other_without_gaps_and_fill_every_window():
    text = documents(30, 7, 50, 1, 12, 40, 60)
    drawn = calibration_batches(text, make_tokenizer(), samples=6, seq_len=32, seed=1)
    assert [batch.shape for batch in drawn.batches] == [(1, 32)] * 6
    stream = flat(drawn.batches)
    # a document's last word is followed by another document's first, any other word by its successor
    firsts, lasts = {0, 30, 37, 87, 88, 100, 140}, {29, 36, 86, 87, 99, 139, 199}
    assert stream[0] in firsts
    assert all(b in firsts if a in lasts else b == a + 1 for a, b in pairwise(stream))
    assert len(set(stream)) == len(stream)
    assert stream != sorted(stream)


def test_special_tokens_of_the_tokenizer_start_every_document():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    drawn = calibration_batches(documents(9, 9, 9), tokenizer, samples=3, seq_len=10, seed=0)
    assert [batch[0, 0].item() for batch in drawn.batches] == [BOS] * 3


def test_no_more_documents_are_tokenised_than_needed():
    calls: list[str] = []

    class Counting(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            calls.append(text)
            return super().__call__(text, **options)

    tokenizer = Counting(tokenizer_object=make_tokenizer().backend_tokenizer)
    calibration_batches(documents(*[20] * 50), tokenizer, samples=3, seq_len=30, seed=0)
    assert len(calls) == 5


@pytest.mark.parametrize("seed", range(4))
def test_documents_are_cut_and_the_short_ones_skipped_and_counted(seed):
    notes: list[str] = []

    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    lengths = (15, 16, 100, 3, 40, 1, 15)
    drawn = calibration_batches(
        documents(*lengths), make_tokenizer(), samples=3, seq_len=32, seed=seed, packing="document", progress=Notes()
    )
    assert sorted(batch[0].tolist() for batch in drawn.batches) == [
        list(range(15, 31)),
        list(range(31, 63)),
        list(range(134, 166)),
    ]
    assert drawn.tokens == 16 + 32 + 32
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    last = max(order.index(long) for long in (1, 2, 4))
    assert drawn.passed_over == last + 1 - 3 > 0
    assert notes == [f"skipped {drawn.passed_over} documents of 'made up' shorter than 16 tokens"]


@pytest.mark.parametrize("packing", ["packed", "document"])
@pytest.mark.parametrize("lengths", [(2000,), (64,) * 30], ids=["one document", "thirty documents"])
def test_the_seed_alone_decides(packing, lengths):
    samples = 1 if packing == "document" and len(lengths) == 1 else 8

    def draw(seed: int):
        # the state of the global generator must not matter
        torch.seed()
        return calibration_batches(
            documents(*lengths), make_tokenizer(), samples=samples, seq_len=32, seed=seed, packing=packing
        )

    first, again, other = draw(5), draw(5), draw(6)
    assert flat(first.batches) == flat(again.batches)
    assert first.fingerprint == again.fingerprint
    if samples > 1:
        assert first.fingerprint != other.fingerprint


def test_the_fingerprint_sees_where_samples_end():
    one = calibration_batches(documents(64), make_tokenizer(), samples=1, seq_len=64, seed=0)
    halves = [
        calibration_batches(documents(64), make_tokenizer(), samples=2, seq_len=32, seed=seed) for seed in range(8)
    ]
    [two, *_] = [drawn for drawn in halves if flat(drawn.batches) == flat(one.batches)]
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("lengths", "packing", "message"),
    [
        ((100,), "packed", "need 128 tokens, but 'made up' has only 100; pass fewer --samples, a shorter --seq-len"),
        ((60, 60), "packed", "need 128 tokens, but 'made up' has only 120; pass fewer --samples, a shorter --seq-len"),
        ((40, 15, 90), "document", r"has only 2 \(130 tokens\); pass fewer --samples"),
    ],
)
def test_too_little_text_is_refused_with_both_numbers(lengths, packing, message):
    with pytest.raises(DataError, match=message):
        calibration_batches(documents(*lengths), make_tokenizer(), samples=4, seq_len=32, seed=0, packing=packing)


@pytest.mark.parametrize(
    ("samples", "seq_len", "packing", "message"),
    [
        (0, 8, "packed", "needs --samples >= 1 and --seq-len >= 2, not 0 and 8"),
        (1, 1, "packed", "needs --samples >= 1 and --seq-len >= 2, not 1 and 1"),
        (1, 8, "loose", "--packing must be 'packed' or 'document', not 'loose'"),
    ],
)
def test_values_out_of_range_are_refused(samples, seq_len, packing, message):
    with pytest.raises(ConfigError, match=message):
        calibration_batches(documents(50), make_tokenizer(), samples=samples, seq_len=seq_len, seed=0, packing=packing)


def test_a_text_longer_than_the_tokenizers_limit_causes_no_warning():
    logged: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    logger, handler = logging.getLogger("transformers"), Recorder()
    logger.addHandler(handler)
    try:
        calibration_batches(documents(100), make_tokenizer(model_max_length=10), samples=2, seq_len=8, seed=0)
        assert logged == []
        make_tokenizer(model_max_length=10)(words(0, 100))
        assert len(logged) == 1
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("packing", ["packed", "document"])
@pytest.mark.parametrize("lengths", [(64,), (20, 0, 33, 17, 90, 16, 16, 16, 4, 30)])
def test_every_sample_knows_its_documents(packing, lengths):
    text, tokenizer = documents(*lengths), make_tokenizer()
    samples = 1 if packing == "document" and len(lengths) == 1 else 3
    drawn = calibration_batches(text, tokenizer, samples=samples, seq_len=20, seed=3, packing=packing)
    words = [tokenizer(document)["input_ids"] for document in text.documents]
    for ids, origin in zip(drawn.batches, drawn.origins, strict=True):
        joined = [token for number in origin.documents for token in words[number - 1]]
        found = ids[0].tolist()
        assert any(joined[start : start + len(found)] == found for start in range(len(joined)))
        assert all(words[number - 1] for number in origin.documents)
        assert text.documents[origin.documents[0] - 1].startswith(origin.quotation)
        assert 0 < len(origin.quotation) <= 60


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((7,), "document 7, which begins 'some words'"),
        ((7, 2, 9), "document 7, which begins 'some words', and 2, 9"),
        ((7, 2, 9, 4, 5), "document 7, which begins 'some words', and 2, 9, 2 more"),
    ],
)
def test_an_origin_names_a_few_documents(numbers, says):
    assert str(Origin(numbers, "some words")) == says

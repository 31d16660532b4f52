"""Long texts cost what is used of them, and their windows come from all over them."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import pytest
from _texts import spelling, write
from transformers import LlamaConfig, PreTrainedTokenizerFast

from unipruning_core.data import calibration
from unipruning_core.data.calibration import calibration_batches
from unipruning_core.data.encoding import joined_ids
from unipruning_core.data.perplexity import cut
from unipruning_core.data.pieces import PIECE, WHOLE
from unipruning_core.data.text import Text, load_text
from unipruning_core.progress import Progress, Task

MEGABYTE = 2**20
LONG = 2**18  # for the tests' sake less than the real one
CONFIG = LlamaConfig(max_position_embeddings=2048)


class Counting(PreTrainedTokenizerFast):
    """A tokenizer that counts the characters it is given."""

    given = 0

    def __call__(self, text, **options):
        self.given += len(text)
        return super().__call__(text, **options)


class Recorded(Progress):
    """What was shown."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int, str]] = []
        self.advanced = 0

    @contextmanager
    def task(self, label, total, unit, done=0):
        self.opened.append((label, total, unit))
        outer = self

        class Counted(Task):
            def advance(self, amount: int = 1, **shown: object) -> None:
                outer.advanced += amount

        yield Counted()


def counting() -> Counting:
    return Counting(tokenizer_object=spelling().backend_tokenizer)


@cache
def numbered(length: int, start: int = 0) -> str:
    """A text that tells at each place where that is, and takes a token a character."""
    return "".join(f"{at:09d} " for at in range(start, start + length, 10))


def places(batches) -> list[int]:
    """Where windows begin."""
    found = []
    for batch in batches:
        words = "".join(map(chr, batch[0].tolist()))
        at = words.index(" ") + 1
        found.append(int(words[at : at + 9]) - at)
        assert words in numbered(len(words) + 20, int(words[at : at + 9]) - 10)
    return found


def test_a_long_text_costs_what_its_samples_need(tmp_path):
    text = load_text(write(tmp_path / "long.txt", numbered(3 * MEGABYTE)))
    tokenizer, shown = counting(), Recorded()
    drawn = calibration_batches(text, tokenizer, samples=4, seq_len=32, seed=0, progress=shown)
    assert [batch.shape for batch in drawn.batches] == [(1, 32)] * 4
    assert tokenizer.given < 2**15
    assert shown.opened == [("tokenising", 4 * 32, "tokens")]
    assert shown.advanced == 4 * 32


def test_windows_of_a_long_text_are_distinct_and_from_all_over_it():
    length = 2 * MEGABYTE
    text = Text((numbered(length),), "long", "0" * 64)
    drawn = [calibration_batches(text, spelling(), samples=64, seq_len=32, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    starts = sorted(places(drawn[0].batches))
    assert all(later - earlier >= 32 for earlier, later in pairwise(starts))
    # a quarter of 64 draws, give or take four standard deviations
    assert all(2 <= sum(quarter <= 4 * start // length < quarter + 1 for start in starts) <= 30 for quarter in range(4))


@pytest.mark.parametrize(("length", "samples", "seq_len"), [(LONG, 4, 32), (LONG + 10, 150, 512)])
def test_a_shorter_text_or_one_of_which_much_is_needed_is_drawn_from_as_a_whole(monkeypatch, length, samples, seq_len):
    monkeypatch.setattr(calibration, "LONG", LONG)
    text = Text((numbered(length)[:length],), "long", "0" * 64)
    tokenizer = counting()
    drawn = calibration_batches(text, tokenizer, samples=samples, seq_len=seq_len, seed=0)
    assert tokenizer.given >= length
    # whole windows after the first special token
    starts = {int(start) for start in places(batch for batch in drawn.batches if int(batch[0, 0]) != 1)}
    assert {(start + 1) % seq_len for start in starts} == {0}
    assert len(starts) >= samples - 1


@pytest.mark.parametrize("packing", ["packed", "document"])
def test_a_long_document_among_others_is_tokenised_as_far_as_needed(packing):
    rows = tuple(numbered(MEGABYTE) for _ in range(3))
    tokenizer = counting()
    calibration_batches(Text(rows, "rows", ""), tokenizer, samples=2, seq_len=512, seed=0, packing=packing)
    assert tokenizer.given < 2 * 3 * PIECE


def test_a_long_text_is_tokenised_in_little_memory():
    text, tokenizer = numbered(4 * MEGABYTE), spelling()
    tokenizer("once")
    tracemalloc.start()
    calibration_batches(Text((text,), "long", ""), tokenizer, samples=4, seq_len=32, seed=0)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < len(text) // 4


def test_a_perplexity_reads_what_its_windows_need():
    text = Text((numbered(MEGABYTE), numbered(MEGABYTE)), "long", "0" * 64)
    tokenizer, shown = counting(), Recorded()
    made = cut(text, tokenizer, CONFIG, seq_len=256, windows=2, progress=shown)
    assert made.ids.shape == (2, 1, 256)
    assert "".join(map(chr, made.ids.flatten().tolist()))[1:] == numbered(MEGABYTE)[:511]
    assert tokenizer.given < 3 * PIECE
    assert shown.opened == [("tokenising", 512, "tokens")]
    assert shown.advanced == 512


def test_the_whole_of_a_long_text_is_its_documents_joined():
    rows = [numbered(WHOLE), numbered(PIECE), "end"]
    shown = Recorded()
    whole = joined_ids(spelling(), rows, "\n\n", progress=shown)
    assert whole == spelling()("\n\n".join(rows))["input_ids"]
    [(label, total, unit)] = shown.opened
    assert (label, unit) == ("tokenising", "pieces")
    assert abs(total - shown.advanced) <= 1


def test_short_texts_show_no_bar():
    shown = Recorded()
    joined_ids(spelling(), ["short"], "\n\n", progress=shown)
    assert shown.opened == []


def test_a_place_too_small_for_a_window_is_passed_over(monkeypatch):
    # every draw fails: the text is taken as a whole
    monkeypatch.setattr(calibration, "window", lambda *_: None)
    monkeypatch.setattr(calibration, "LONG", LONG)
    drawn = calibration_batches(Text((numbered(LONG + 10),), "a", ""), spelling(), samples=2, seq_len=32, seed=0)
    assert len(drawn.batches) == 2


def test_many_documents_show_a_bar_of_the_tokens_needed():
    rows = tuple(numbered(400, 400 * row) for row in range(200))
    for samples, opened in ((4, []), (130, [("tokenising", 130 * 256, "tokens")])):
        shown = Recorded()
        calibration_batches(Text(rows, "rows", ""), spelling(), samples=samples, seq_len=256, seed=0, progress=shown)
        assert shown.opened == opened
    assert shown.advanced == 130 * 256

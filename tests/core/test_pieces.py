"""Long texts are tokenised piece by piece: the same ids as of the whole, and no more of it than needed."""

from __future__ import annotations

import random
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from unipruning_core.data.pieces import OVERLAP, PIECE, WHOLE, pieces, token_ids, window

WORDS = ["the", "quick", "brown", "foxes", "körper", "字画", "\U0001f41f", "12345", "foo_bar()", "="]
GAPS = [" ", " ", " ", " ", "\n\n", ", ", " " * 40, "=" * 30, "\t"]


def prose(characters: int, seed: int = 0) -> str:
    """Text of words, lines, runs of blanks and signs, and letters of several bytes."""
    chance = random.Random(seed)
    count = characters // 4
    words, gaps = chance.choices(WORDS, k=count), chance.choices(GAPS, k=count)
    return "".join(word + gap for word, gap in zip(words, gaps, strict=True))[:characters]


@cache
def trained(kind: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one of the ways in which tokens depend on what is around them."""
    tokenizer = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(byte_fallback=kind == "unsplit"))
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "unsplit":
        # as of Llama 2: a blank is put in front, and merges may cross words
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, max_token_length=12, show_progress=False)
    corpus = prose(5_000, seed=7)
    # text without words would be one word for a trainer
    tokenizer.train_from_iterator(corpus.split(" ") if kind == "unsplit" else [corpus], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Counting:
    """A tokenizer that counts the characters it is given; ``is_fast`` says whether it tells where tokens are."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, is_fast: bool) -> None:
        self._tokenizer, self.is_fast, self.given = tokenizer, is_fast, 0

    def __call__(self, text: str, **options: object) -> object:
        assert self.is_fast or "return_offsets_mapping" not in options
        self.given += len(text)
        return self._tokenizer(text, **options)


@pytest.mark.parametrize("is_fast", [True, False], ids=["with places", "without places"])
@pytest.mark.parametrize("kind", ["bytes", "unsplit", "unigram"])
def test_the_ids_are_those_of_the_whole_text(kind, is_fast):
    text, tokenizer = prose(WHOLE + 3 * PIECE), trained(kind)
    counting = Counting(tokenizer, is_fast)
    made = list(pieces(counting, [text[:1000], "", text[1000:]]))
    assert [token for piece in made for token in piece] == tokenizer(text)["input_ids"]
    assert len(made) >= 4
    assert counting.given < 1.1 * len(text)


@pytest.mark.parametrize("length", [0, 1, WHOLE])
def test_a_short_text_is_tokenised_at_once(length):
    tokenizer, text = trained("bytes"), "ab " * WHOLE
    assert list(pieces(tokenizer, [text[:length]])) == [tokenizer(text[:length])["input_ids"]]


def test_no_more_is_tokenised_than_is_taken():
    counting = Counting(trained("bytes"), True)
    assert next(pieces(counting, [prose(4 * WHOLE)]))
    assert counting.given < 2 * PIECE + OVERLAP


@pytest.mark.parametrize("is_fast", [True, False], ids=["with places", "without places"])
def test_where_pieces_cannot_be_told_to_agree_they_are_made_longer(is_fast):
    # without places every run of a period is as good as another
    text, tokenizer = "ab " * WHOLE, trained("bytes")
    counting = Counting(tokenizer, is_fast)
    assert [token for piece in pieces(counting, [text]) for token in piece] == tokenizer(text)["input_ids"]
    assert (counting.given < 1.1 * len(text)) == is_fast


def test_special_tokens_are_left_out_where_a_template_has_its_own():
    tokenizer = trained("bytes")
    text = prose(WHOLE + PIECE)
    made = [token for piece in pieces(tokenizer, [text], special=False) for token in piece]
    assert made == tokenizer(text, add_special_tokens=False)["input_ids"] == tokenizer(text)["input_ids"][1:-1]


@pytest.mark.parametrize("start", [0, 50_001, 99_000])
def test_a_window_is_in_the_text(start):
    text, tokenizer = prose(100_000), trained("bytes")
    ids = window(tokenizer, text, start, 64, 50)
    whole = token_ids(tokenizer, text)
    assert len(ids) == 64
    assert any(whole[at : at + 64] == ids for at in range(len(whole)))
    assert tokenizer.decode(ids).strip()[10:60] in text[start : start + 2000]


def test_a_window_beyond_the_end_is_none():
    assert window(trained("bytes"), prose(5_000), 4_900, 64, 50) is None

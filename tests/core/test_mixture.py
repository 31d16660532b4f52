"""Several texts with weights: how many samples each gives, in which order, and what is recorded of it."""

from __future__ import annotations

import json

import pytest
import torch
from _texts import lines, spelling, write

from unipruning_core.cli.main import main
from unipruning_core.compare.runner import text_words
from unipruning_core.data.calibration import calibration_batches, shares
from unipruning_core.data.text import Text, TextChoice
from unipruning_core.errors import ConfigError, DataError

DRAW = {"seq_len": 16, "seed": 5}


@pytest.fixture
def sources(tmp_path):
    return {
        write(tmp_path / "a.txt", "a" * 2000): 3.0,
        write(tmp_path / "b.jsonl", lines(*[{"body": "b" * 40}] * 50)): 1,
    }


def letters(batches):
    return ["".join(map(chr, batch[0].tolist())).replace("\1", "") for batch in batches]


def test_each_text_gives_its_share_of_the_samples_as_if_it_were_alone(sources):
    text = TextChoice(sources).load("train")
    drawn = calibration_batches(text, spelling(), samples=8, **DRAW)
    found = letters(drawn.batches)
    assert [set(sample) for sample in found].count({"a"}) == 6
    assert [set(sample) for sample in found].count({"b"}) == 2
    assert found != sorted(found)
    for count, (_, part) in zip((6, 2), text.parts, strict=True):
        alone = calibration_batches(part, spelling(), samples=count, **DRAW)
        assert sorted(letters(alone.batches)) == sorted(sample for sample in found if sample in letters(alone.batches))
    for sample, origin in zip(found, drawn.origins, strict=True):
        assert str(origin).startswith(f"document {origin.documents[0]} of '")
        assert origin.source.endswith("a.txt" if set(sample) == {"a"} else "b.jsonl")
    assert drawn.tokens == 8 * 16


def test_the_seed_alone_decides_the_order(sources):
    text = TextChoice(sources).load("train")
    draws = [calibration_batches(text, spelling(), samples=8, seq_len=16, seed=seed) for seed in (1, 1, 2)]
    assert draws[0].fingerprint == draws[1].fingerprint != draws[2].fingerprint


@pytest.mark.parametrize(
    ("weights", "samples", "counts"),
    [((0.7, 0.3), 128, [90, 38]), ((1, 1, 1), 128, [43, 43, 42]), ((7, 3), 10, [7, 3]), ((1,), 5, [5])],
)
def test_shares_add_up(weights, samples, counts):
    text = Text((), "both", "", parts=tuple((weight, Text(("a",), "a", "")) for weight in weights))
    assert shares(text, samples) == counts


def test_a_text_that_would_give_no_sample_is_refused(sources):
    with pytest.raises(DataError, match=r"of 2 none would be from '.*b.jsonl'; pass more --samples or a larger weight"):
        calibration_batches(TextChoice(sources).load("train"), spelling(), samples=2, **DRAW)


def test_weights_and_texts_are_part_of_the_checksum(sources):
    first, second = sources
    loaded = [
        TextChoice(weights).load("train").sha256
        for weights in ({first: 1, second: 1}, {first: 2, second: 1}, {first: 1}, {second: 1, first: 1})
    ]
    assert len(set(loaded)) == 4
    assert TextChoice({first: 1.0, second: 1}).load("train").sha256 == loaded[0]


def test_a_column_is_for_the_tables_of_a_mixture(sources):
    first, _ = sources
    text = TextChoice(sources, column="body").load("train")
    assert [part.form for _, part in text.parts] == ["plain text", "text in column 'body'"]
    with pytest.raises(DataError, match="--text-column body is for tables"):
        TextChoice({first: 1}, column="body").load("train")
    assert {path.name for _, path in TextChoice(sources).files()} == {"a.txt", "b.jsonl"}
    with pytest.raises(ConfigError, match="must have names, not PosixPath"):
        TextChoice({TextChoice(sources).files()[0][1]: 1.0}).load("train")


def test_a_comparison_passes_a_mixture_on():
    words = text_words(TextChoice({"a.txt": 0.5, "org/name:c": 1.0}, column="body"))
    assert words == ["--data", "0.5:a.txt", "--data", "1.0:org/name:c", "--text-column", "body"]


def test_the_run_records_a_mixture_and_what_was_read(home, tmp_path, capsys):
    texts = [
        write(tmp_path / f"{name}.jsonl", lines(*[{"n": 1, "body": "word1 word2 word3 " * 9}] * 9)) for name in "ab"
    ]
    words = ["--data", f"2:{texts[0]}", "--data", texts[1], "--samples", "3", "--seq-len", "16", "--mode", "frozen"]
    assert main(["search", str(home / "model"), *words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert all(f"text {text!r}: text in column 'body' (9 documents)" in said for text in texts)
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert data["source"] == f"2:{texts[0]} + 1:{texts[1]}"
    assert [(part["source"], part["weight"], part["samples"]) for part in data["sources"]] == [
        (texts[0], 2.0, 2),
        (texts[1], 1.0, 1),
    ]
    assert all(len(part["sha256"]) == 64 for part in data["sources"])


def test_a_comparison_searches_on_a_mixture(home, words, commands, tmp_path):
    other = write(tmp_path / "b.jsonl", lines(*[{"body": "word1 word2 word3 " * 9}] * 9))
    assert main([*words, "--data", f"0.5:{other}", "--methods", "wanda", "--sparsity", "50%"]) == 0
    assert "search" in commands
    [run] = (tmp_path / "out").glob("searches/*/run/run.json")
    data = json.loads(run.read_text())["data"]
    assert [(part["weight"], part["samples"]) for part in data["sources"]] == [(1.0, 2), (0.5, 1)]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["text"] == {str(home / "text.txt"): 1.0, other: 0.5}


def test_a_perplexity_is_that_of_one_text(home, refused):
    text = str(home / "text.txt")
    said = refused("perplexity", home / "model", "--data", text, "--data", text, "--seq-len", "16")
    assert said == "error: --data takes one text, not several; run the command once for each"


def test_documents_keep_their_own_length_without_padding(tmp_path):
    rows = lines(*({"text": "x" * length} for length in (15, 16, 20, 64)))
    text = TextChoice(write(tmp_path / "a.jsonl", rows)).load("train")
    drawn = calibration_batches(text, spelling(), samples=4, seq_len=32, seed=0, packing="document")
    # one special token each; none of them stands for padding
    assert sorted(batch.shape[1] for batch in drawn.batches) == [16, 17, 21, 32]
    assert all(torch.equal(batch[0, 1:], torch.full_like(batch[0, 1:], ord("x"))) for batch in drawn.batches)

"""Numbers are bounded where they are parsed: none hangs, overflows or vanishes later."""

from __future__ import annotations

import re
from dataclasses import fields
from fractions import Fraction

import pytest
import torch
from _checkpoints import save_llama
from _modes import batches, run

from unipruning_core.cli.main import main
from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.search.choice import settings_of
from unipruning_core.search.modes import MODES
from unipruning_core.search.settings import LARGEST, SMALLEST
from unipruning_core.sparsity.allocation import parse_spread
from unipruning_core.sparsity.parse import parse_sparsity

EVERY_FLOAT = [(mode, item.name) for mode, kind in MODES.items() for item in fields(kind) if item.type == "float"]
LONG = "9" * 5000


@pytest.mark.parametrize(("mode", "name"), EVERY_FLOAT)
@pytest.mark.parametrize(
    "value",
    [
        "nan",
        "inf",
        "-inf",
        "1e-46",
        "-1e-46",
        "1e38",
        "1e308",
        "1e309",
        "1e-400000",
        LONG,
        "-1",
        "",
        "x",
        "1_",
        10**400,
    ],
    ids=lambda value: str(value)[:8],
)
def test_a_number_that_float32_cannot_work_with_is_refused(mode, name, value):
    # 1e-400000 is 0, which some settings take
    if value == "1e-400000":
        value = "2e-31"
    with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')} must ") as refusal:
        settings_of(mode, {name: value})
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("value", [2**63, 10**20, -1, "1e20", "100000000000000000000", LONG, "1.0", True, None, 1.0])
def test_a_seed_that_is_no_int64_is_refused(value):
    with pytest.raises(ConfigError, match=r"^--seed must "):
        settings_of("drift", {"seed": value})


def test_the_largest_seed_is_one_for_torch():
    assert torch.Generator().manual_seed(settings_of("drift", {"seed": 2**63 - 1}).seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("model"), dtype=torch.float32)


def accepted(mode, name, value):
    try:
        return settings_of(mode, {name: value})
    except ConfigError:
        return None


EDGES = [
    (mode, name, value)
    for mode, name in EVERY_FLOAT
    for value in (SMALLEST, 1e-9, LARGEST)
    if accepted(mode, name, value)
]


@pytest.mark.parametrize(("mode", "name", "value"), EDGES)
def test_the_smallest_and_the_largest_number_break_no_search(mode, name, value, model):
    outcomes, _ = run(model, batches(3), mode=mode, **{name: value})
    assert all(outcome.steps for outcome in outcomes.values())


@pytest.mark.parametrize(
    "text", ["1e999999999", "1e-999999999", "1e400", "nan", "inf", LONG, "1/0", "1/" + LONG, "0x1", "", " 1", "٣"]
)
def test_a_spread_that_is_no_short_number_is_refused_at_once(text):
    with pytest.raises(ConfigError, match=r"--spread must be a number such as 0\.08, not"):
        parse_spread(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.08", Fraction(8, 100)), ("8/100", Fraction(8, 100)), ("1e-2", Fraction(1, 100)), (".5", Fraction(1, 2))],
)
def test_a_spread_is_exact(text, value):
    assert parse_spread(text) == value


@pytest.mark.parametrize("text", ["1", "-0.1", "1e9", "2/1"])
def test_a_spread_out_of_range_is_refused(text):
    with pytest.raises(ConfigError, match=r"--spread must lie in \[0, 1\), not"):
        parse_spread(text)


@pytest.mark.parametrize(("samples", "seq_len"), [(2**20 + 1, None), (10**30, 16), (1, 2**24 + 1), (1, 10**30)])
def test_a_calibration_that_no_machine_could_hold_is_refused_before_the_text_is_read(samples, seq_len, capsys):
    with pytest.raises(ConfigError, match="calibration takes at most 1048576 --samples of at most 16777216 tokens"):
        DataChoice(TextChoice("nowhere.jsonl"), samples, seq_len)
    words = ["--samples", str(samples)] + ([] if seq_len is None else ["--seq-len", str(seq_len)])
    assert main(["plan", "smollm2-135m", *words]) == 2
    assert "calibration takes at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [f"{LONG}%", f"0.{LONG}%", f"{LONG}:4", f"2:{LONG}", f"2:4+dense@{LONG}%", "nan%", "1e1%", "2:4@", "@", "٣%"],
)
def test_a_sparsity_of_too_many_digits_is_refused(text):
    with pytest.raises(ConfigError):
        parse_sparsity(text)


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "--shape", f"{LONG}x4"],
        ["bench", "--repeat", "1000000000"],
        ["bench", "--repeat", LONG],
        ["compare", "m", "--methods", f"wanda:samples={LONG}", "--sparsity", "50%", "--out", "o"],
        ["compare", "m", "--methods", "owl:spread=1e999999999", "--sparsity", "50%", "--out", "o"],
        ["compare", "m", "--methods", "owl:spread=nan", "--sparsity", "50%", "--out", "o"],
        ["compare", "m", "--methods", "owl:outlier_multiple=inf", "--sparsity", "50%", "--out", "o"],
        ["compare", "m", "--methods", "wanda", "--seeds", f"0,{2**63}", "--sparsity", "50%", "--out", "o"],
        ["compare", "m", "--methods", "wanda", "--seeds", LONG, "--sparsity", "50%", "--out", "o"],
        ["allocate", "m", "r", "--scheme", "owl", "--sparsity", "50%", "--out", "o", "--outlier-multiple", "1e39"],
        ["allocate", "m", "r", "--scheme", "owl", "--sparsity", "50%", "--out", "o", "--spread=1e999999999"],
        ["plan", "smollm2-135m", "--bandwidth", "nan", "--flops", "1"],
        ["plan", "smollm2-135m", "--bandwidth", "1e400", "--flops", "1"],
        ["plan", "smollm2-135m", "--bandwidth", "1e-320", "--flops", "1"],
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_a_command_refuses_a_number_out_of_range(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as error:  # of argparse
        code = error.code
    assert code == 2
    assert re.search("must be|must lie in|takes at most|invalid int value", capsys.readouterr().err)

"""A comparison that cannot be made: one sentence, before any command runs."""

import re
import sys

import pytest

import unipruning
from unipruning_core.cli.main import main


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--methods", "luck"], "method must be one of magnitude, wanda"),
        (["--methods", ","], "no method was given"),
        (["--preset", "luck"], "preset must be one of peers, ablation, sensitivity, not 'luck'"),
        (["--methods", "wanda/planet"], "the budget of 'wanda' must be one of matrix, row, global, not 'planet'"),
        (["--methods", "drift:seed=1"], "seeds are the same for all methods"),
        (["--methods", "drift:samples=few"], "samples of method 'drift:samples=few' must be a whole number"),
        (["--methods", "drift:speed=1"], "speed of method 'drift:speed=1' does not exist; settings of method"),
        (["--methods", "drift:quantile=high"], "quantile of method 'drift:quantile=high' must be a number, not 'high'"),
        (["--methods", "sparsegpt/row"], "the budget of 'sparsegpt' must be one of matrix, not 'row'"),
        (["--methods", "sparsegpt:metric=ria"], "settings of method 'sparsegpt:metric=ria' are block, dampening, seed"),
        (
            ["--methods", "sparsegpt:block=0"],
            "block of method 'sparsegpt:block=0' must be 1 or more, not 0",
        ),
        (["--methods", "owl:spread=wide"], "spread of method 'owl:spread=wide' must be a number, not 'wide'"),
        (["--methods", "wanda:spread=0.1"], "spread of method 'wanda:spread=0.1' does not exist"),
        (["--methods", "feedback:pattern=2:4"], "no method supports any of the sparsities given"),
        (["--methods", "drift:quantile=2"], "quantile of method 'drift:quantile=2' must lie in [0, 1), not 2"),
        (["--methods", "ria:coupling=1"], "coupling of method 'ria:coupling=1' is for --mode coupled; settings of"),
        (["--methods", "drift:samples=4000"], "need 64000 tokens, but"),
        (["--methods", "prox"], "no method supports any of the sparsities given"),
        (["--methods", "wanda", "--sparsity", "60%/row"], "names a budget, which belongs to the method here"),
        (["--methods", "wanda", "--sparsity", "7:16"], "needs a multiple of 16 inputs"),
        (["--methods", "wanda", "--seeds", "0,0"], "seeds must be whole numbers, each given once"),
        (["--methods", "wanda", "--seeds", "one"], "--seeds must be whole numbers separated by commas"),
        (["--methods", "wanda", "--windows", "50"], "50 windows of 32 tokens are needed, but"),
        (["--methods", "wanda", "--windows", "0"], "--windows must be 1 or more, not 0"),
        (["--methods", "wanda", "--eval-seq-len", "700"], "5 windows of 700 tokens are needed, but"),
        (["--methods", "wanda", "--eval-seq-len", "4096"], "4096 is more than the model's 2048 positions"),
        (["--methods", "wanda", "--backend", "abacus"], "no backend is called 'abacus'"),
        (["--methods", "wanda", "--data", "nowhere.txt"], "nowhere.txt"),
        (["--methods", "wanda", "--eval-data", "nowhere.txt"], "nowhere.txt"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_any_command_runs(words, commands, capsys, asked, says):
    assert main([*words, "--sparsity", "50%", *asked]) == 2
    assert says in capsys.readouterr().err
    assert commands == []


def test_a_plot_that_cannot_be_drawn_is_refused_before_any_command_runs(words, commands, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*words, "--methods", "wanda", "--sparsity", "50%", "--plot"]) == 2
    assert "--plot needs matplotlib" in capsys.readouterr().err
    assert commands == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": "everything"}, "keep must be one of results, runs, checkpoints, not 'everything'"),
        ({"data": ["a text"]}, "data of a comparison must be a name or a path, not a list"),
        ({"model": object()}, "model of a comparison must be a name or a path, not a object"),
    ],
    ids=lambda value: str(*value) if isinstance(value, dict) else "",
)
def test_what_no_command_can_be_given_is_refused_from_python(home, tmp_path, commands, options, says):
    given = {"model": home / "model", "methods": "wanda", "sparsity": "50%", "out": tmp_path / "out", **options}
    with pytest.raises(unipruning.UnipruningError, match=re.escape(says)):
        unipruning.compare(**given)
    assert commands == []
    assert not (tmp_path / "out").exists()

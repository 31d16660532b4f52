"""A comparison that cannot be made: one sentence, before any command runs."""

import contextlib
import copy
import json
import math
import re
import sys

import pytest

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.compare.records import read_evaluation, read_search, write_record
from unipruning_core.errors import OutputError
from unipruning_core.storage.documents import sealed


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--methods", "luck"], "method must be one of magnitude, wanda"),
        (["--methods", ","], "no method was given"),
        (["--preset", "luck"], "preset must be one of peers, ablation, sensitivity, not 'luck'"),
        (
            ["--methods", "wanda/planet"],
            "the budget of 'wanda' must be one of matrix, row, global, model, not 'planet'",
        ),
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
        (
            ["--methods", "owl:spread=wide"],
            "spread of method 'owl:spread=wide' must be a number such as 0.08, not 'wide'",
        ),
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


MEASURED = {"facts": {"windows": 2, "search": "s"}, "evaluate": {"seconds": 1.5, "peak_mib": 64.0}}
MEASURED |= {"measured": {"perplexity": 9.5, "per_window_nll": [2.25, 2.5]}}
PRUNED = {**MEASURED, "pruned": {"sparsity": 0.5}, "project": {"seconds": 1.5, "peak_mib": None}}
SEARCHED = {"facts": {"seed": 0}, "method": "wanda", "seconds": None, "peak_mib": 64.0, "tokens": 48}


def reread(path, record):
    if "method" in record:
        return read_search(path, SEARCHED["facts"])
    return read_evaluation(path, MEASURED["facts"], pruned="pruned" in record)


@pytest.mark.parametrize("record", [MEASURED, PRUNED, SEARCHED], ids=["dense", "pruned", "search"])
@pytest.mark.parametrize("checksum", [True, False])
def test_a_record_comes_back_whether_or_not_it_has_a_checksum(record, checksum, tmp_path):
    write_record(tmp_path / "r.json", record)
    if not checksum:
        (tmp_path / "r.json").write_text(json.dumps(record))
    assert reread(tmp_path / "r.json", record) == record


def test_a_loss_that_is_not_finite_comes_back_as_infinite(tmp_path):
    measured = {"perplexity": math.nan, "per_window_nll": [math.nan, math.inf]}
    write_record(tmp_path / "r.json", {**MEASURED, "measured": measured})
    assert "NaN" not in (tmp_path / "r.json").read_text()
    found = read_evaluation(tmp_path / "r.json", MEASURED["facts"], pruned=False)
    assert found["measured"]["per_window_nll"] == [math.inf, math.inf]


@pytest.mark.parametrize("record", [MEASURED, PRUNED, SEARCHED], ids=["dense", "pruned", "search"])
def test_a_flipped_bit_in_a_record_is_noticed(record, tmp_path):
    path = tmp_path / "r.json"
    write_record(path, record)
    original = path.read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        if changed.split() != original.split():
            with pytest.raises(OutputError, match=r"is damaged \(.*\); remove it to measure again"):
                reread(path, record)


def places(content, path=()):
    """Every place in a JSON value."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("record", [MEASURED, PRUNED, SEARCHED], ids=["dense", "pruned", "search"])
def test_a_record_that_nothing_measured_is_refused_with_a_right_checksum_or_with_none(record, tmp_path):
    path = tmp_path / "r.json"
    for place in places(record):
        for value in (None, "", "x", True, -1, [], {}, {"a": [1]}, 10**90):
            content = copy.deepcopy(record)
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            for text in (content, sealed(content)):
                path.write_text(json.dumps(text))
                with contextlib.suppress(OutputError):
                    found = reread(path, record)
                    assert found.keys() == record.keys()
                    # what the table reads
                    costs = [found[part] for part in ("evaluate", "project") if part in found]
                    costs += [found] if "method" in found else []
                    seconds = [cost["seconds"] for cost in costs if cost["seconds"] is not None]
                    counts = found.get("measured", {}).get("per_window_nll", []) + seconds
                    counts += [found["tokens"]] if "tokens" in found else []
                    counts += [found["pruned"]["sparsity"]] if "pruned" in found else []
                    assert all(isinstance(count, int | float) and count is not True for count in counts)
                    assert len(found.get("measured", MEASURED["measured"])["per_window_nll"]) == 2


def test_a_damaged_record_is_named_before_anything_runs(words, commands, tmp_path, capsys):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    assert main([*words, *asked]) == 0
    for kind in ("evaluations/dense-*.json", "evaluations/wanda-*.json", "searches/*/search.json"):
        (path,) = (tmp_path / "out").glob(kind)
        original = path.read_bytes()
        for content in (original[:60], original.replace(b"1.5", b"0.5"), b"", b"[]"):
            path.write_bytes(content)
            commands.clear()
            assert main([*words, *asked, "60%"]) == 2
            assert f"record {str(path)!r} is damaged" in capsys.readouterr().err
            assert commands == []
        path.write_bytes(original)

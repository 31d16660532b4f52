"""Comparing methods: what is measured, what is never measured twice, and what the figures of the table mean."""

import csv
import json
import os

import pytest
from _killed import tree

from unipruning_core.cli.main import main
from unipruning_core.compare.folder import held
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.ownership import MARKER, mark
from unipruning_core.tools.processes import Commands

MATRICES, WEIGHTS, EMBEDDINGS = 8064, 10488, 2304  # of the model that is compared: targets, all, and in embeddings


def table(folder):
    """The rows by method and sparsity."""
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["sparsity"]): row for row in rows}


def test_every_method_has_a_row_a_sparsity_under_its_own_budget(words, commands, tmp_path, capsys):
    asked = ["--methods", "wanda,wanda/matrix,feedback,prox", "--sparsity", "50%", "2:4", "--seeds", "0,1"]
    assert main([*words, *asked]) == 0
    rows = table(tmp_path / "out")
    # at 2:4 no budget tells wanda from wanda, and prox is made for patterns alone
    assert list(rows) == [
        ("dense", ""),
        ("wanda", "50%/row"),
        ("wanda", "50%/matrix"),
        ("feedback", "50%/global"),
        ("wanda", "2:4"),
        ("feedback", "2:4"),
        ("prox", "2:4"),
    ]
    # one search a method and seed, however many budgets and sparsities
    assert commands.count("search") == 3 * 2
    assert commands.count("project") == 6 * 2
    assert commands.count("perplexity") == 1 + 6 * 2
    for (method, sparsity), row in rows.items():
        assert row["low"] <= row["perplexity"] <= row["high"], (method, sparsity)
        if method != "dense":
            assert row["pruned"] == pytest.approx(0.5, abs=0.01)
            assert row["pruned_of_model"] == pytest.approx(row["pruned"] * MATRICES / WEIGHTS)
            assert (row["tokens"], row["seeds"], row["search_seconds"]) == (48, 2, 1.5)
    assert rows["wanda", "50%/row"]["ratio"] == rows["wanda", "50%/row"]["ratio_low"] == 1.0
    assert rows["dense", ""]["ratio"] is None
    printed = capsys.readouterr().out
    assert all(f"{row['perplexity']:.2f}" in printed for row in rows.values())
    assert f"{0.5 * MATRICES / WEIGHTS:.1%}  wanda " in printed
    outside = f"{MATRICES / (WEIGHTS - EMBEDDINGS):.1%} of those outside embeddings"
    assert f"Targets: 0.0 M of 0.0 M weights, {outside}." in printed
    with (tmp_path / "out" / "results.csv").open() as file:
        assert [(row["method"], row["sparsity"]) for row in csv.DictReader(file)] == list(rows)


def test_a_ratio_is_to_the_first_method_that_is_made_for_the_sparsity(words, commands, tmp_path, capsys):
    # OWL makes no N:M, so at 2:4 the second method is the first row
    assert main([*words, "--methods", "owl:spread=0.2,wanda,ria", "--sparsity", "50%", "2:4"]) == 0
    rows = table(tmp_path / "out")
    for own, first in (("50%/row", rows["owl:spread=0.2", "50%"]), ("2:4", rows["wanda", "2:4"])):
        assert first["ratio"] == 1.0
        assert rows["ria", own]["ratio"] == pytest.approx(rows["ria", own]["perplexity"] / first["perplexity"])
    assert "ratio: to the first row of each sparsity" in capsys.readouterr().out


def test_a_figure_is_what_the_commands_by_hand_give(home, words, commands, tmp_path, capsys):
    assert main([*words, "--methods", "ria:quantile=0.5:samples=2", "--sparsity", "60%"]) == 0
    text = str(home / "text.txt")
    by_hand = [
        "--data",
        text,
        "--samples",
        "2",
        "--seq-len",
        "16",
        "--mode",
        "frozen",
        "--metric",
        "ria",
        "--quantile=0.5",
    ]
    out = str(tmp_path / "by-hand")
    assert main(["prune", str(home / "model"), *by_hand, "--sparsity", "60%/row", "--out", out]) == 0
    capsys.readouterr()
    assert main(["perplexity", out, "--data", text, "--seq-len", "32", "--windows", "5", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)["perplexity"]
    row = table(tmp_path / "out")["ria:quantile=0.5:samples=2", "60%/row"]
    assert (row["perplexity"], row["tokens"]) == (wanted, 32)


def test_a_method_that_allocates_takes_the_scores_of_another_and_a_budget_of_its_own(home, words, commands, tmp_path):
    asked = ["--methods", "wanda,owl:spread=0.2,fisher-rows", "--sparsity", "50%", "2:4"]
    assert main([*words, *asked]) == 0
    rows = table(tmp_path / "out")
    # no budget is divided among N:M
    assert list(rows)[1:] == [("wanda", "50%/row"), ("owl:spread=0.2", "50%"), ("fisher-rows", "50%"), ("wanda", "2:4")]
    assert commands.count("search") == 2
    assert commands.count("allocate") == 2
    owl, fisher = rows["owl:spread=0.2", "50%"], rows["fisher-rows", "50%"]
    assert owl["pruned"] == fisher["pruned"] == 0.5
    assert len({row["perplexity"] for row in rows.values()}) == len(rows)
    # one search for owl, two for fisher; a budget and a projection for both
    assert (owl["search_seconds"], fisher["search_seconds"]) == (1.5, 3.0)
    assert owl["project_seconds"] == fisher["project_seconds"] == 3.0

    (run,) = (tmp_path / "out" / "searches").glob("wanda-*/run")
    budget, model = str(tmp_path / "owl.json"), str(home / "model")
    allocate = ["allocate", model, str(run), "--scheme", "owl", "--spread", "0.2", "--sparsity", "50%", "--out", budget]
    assert main(allocate) == 0
    out = str(tmp_path / "by-hand")
    assert main(["project", model, str(run), "--sparsity", f"@{budget}", "--out", out]) == 0
    by_hand = json.loads((tmp_path / "by-hand" / "unipruning.json").read_text())["matrices"]
    commands.clear()
    assert main([*words, *asked, "--windows", "4", "--keep", "checkpoints"]) == 0
    assert "search" not in commands
    (kept,) = (tmp_path / "out" / "checkpoints").glob("owl*")
    assert json.loads((kept / "unipruning.json").read_text())["matrices"] == by_hand


def test_a_method_that_changes_weights_has_a_run_a_sparsity(home, words, commands, tmp_path):
    asked = ["--methods", "sparsegpt:block=8", "--sparsity", "50%", "2:4", "--keep", "results"]
    assert main([*words, *asked]) == 0
    assert commands == ["perplexity", *2 * ["compare-sparsegpt", "perplexity"]]
    rows = table(tmp_path / "out")
    assert list(rows) == [("dense", ""), ("sparsegpt:block=8", "50%/matrix"), ("sparsegpt:block=8", "2:4")]
    row = rows["sparsegpt:block=8", "2:4"]
    assert (row["tokens"], row["search_seconds"], row["project_seconds"], row["pruned"]) == (48, 1.5, None, 0.5)
    commands.clear()
    assert main([*words, *asked]) == 0
    assert commands == []


def test_what_is_done_is_not_done_again_and_what_is_new_is_added(words, commands, tmp_path):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    assert main([*words, *asked]) == 0
    before = table(tmp_path / "out")
    commands.clear()
    assert main([*words, *asked]) == 0
    assert commands == []
    assert table(tmp_path / "out") == before
    assert main([*words, *asked, "2:4"]) == 0
    assert commands == ["project", "perplexity"]
    commands.clear()
    # the text counts, not its name; other windows are another measurement of the same search
    assert main([*words, *asked, "--windows", "4"]) == 0
    assert commands == ["perplexity", "project", "perplexity"]
    commands.clear()
    assert main([*words, *asked, "--samples", "4"]) == 0
    assert commands == ["search", "project", "perplexity"]


@pytest.mark.parametrize("stop_before", [0, 1, 3, 6])
def test_a_comparison_that_was_killed_goes_on_to_the_same_table(words, commands, tmp_path, stop_before):
    asked = ["--methods", "wanda,magnitude", "--sparsity", "50%"]
    commands.stop_before = stop_before
    assert main([*words, *asked]) == 130
    commands.stop_before = None
    assert main([*words, *asked]) == 0
    killed_once = table(tmp_path / "out")
    # a project whose checkpoint was never measured is made again
    assert len(commands) in (7, 8)
    again = [*words[:-1], str(tmp_path / "undisturbed")]
    assert main([*again, *asked]) == 0
    assert killed_once == table(tmp_path / "undisturbed")


def test_a_search_that_was_killed_before_it_saved_is_begun_again(words, commands, tmp_path):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    commands.stop_before = 2
    assert main([*words, *asked]) == 130
    (run,) = (tmp_path / "out" / "searches").glob("*/run")
    (run / "run.json").rename(run / "dual.safetensors.partial")
    (run / "../search.json").unlink()
    commands.stop_before = None
    assert main([*words, *asked]) == 0
    assert table(tmp_path / "out")["wanda", "50%/row"]["search_seconds"] == 1.5


def test_time_that_nobody_measured_is_not_made_up(words, commands, tmp_path, capsys):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    commands.stop_before = 2
    assert main([*words, *asked]) == 130
    next((tmp_path / "out" / "searches").glob("*/search.json")).unlink()
    commands.stop_before = None
    assert main([*words, *asked]) == 0
    assert table(tmp_path / "out")["wanda", "50%/row"]["search_seconds"] is None
    assert " ? " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keep", "runs", "checkpoints"), [("results", 0, 0), ("runs", 1, 0), ("checkpoints", 1, 2)], ids=str
)
def test_only_what_is_to_be_kept_stays_on_the_disk(words, commands, tmp_path, keep, runs, checkpoints):
    asked = ["--methods", "wanda", "--sparsity", "50%", "60%", "--keep", keep]
    assert main([*words, *asked]) == 0
    assert len(list((tmp_path / "out").glob("searches/*/run/dual.safetensors"))) == runs
    assert len(list((tmp_path / "out").glob("checkpoints/*/model.safetensors"))) == checkpoints
    commands.clear()
    assert main([*words, *asked]) == 0
    assert commands == []


def test_a_folder_in_which_a_comparison_is_at_work_is_refused(words, commands, tmp_path, capsys):
    with held(tmp_path / "out"):
        assert main([*words, "--methods", "wanda", "--sparsity", "50%"]) == 2
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert commands == []
    assert not (tmp_path / "out").exists()


def test_a_comparison_of_a_version_without_markers_goes_on(words, commands, tmp_path):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    assert main([*words, *asked]) == 0
    (tmp_path / "out" / MARKER).unlink()
    (tmp_path / "out" / "lock").write_text("")
    commands.clear()
    assert main([*words, *asked]) == 0
    assert commands == []


@pytest.mark.parametrize("files", [["lock"], ["lock", "searches/x"], [MARKER], ["thesis.tex"]], ids=" ".join)
def test_a_folder_that_is_no_comparison_is_not_touched(words, commands, tmp_path, capsys, files):
    for name in files:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("theirs")
    before = tree(tmp_path / "out")
    assert main([*words, "--methods", "wanda", "--sparsity", "50%"]) == 2
    assert "holds something other than a comparison" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_a_comparison_that_cannot_begin_leaves_nothing(words, commands, tmp_path):
    assert main([*words, "--methods", "wanda", "--sparsity", "50%", "7:16"]) == 2
    assert not (tmp_path / "out").exists()


def test_what_a_kill_left_half_written_is_removed(words, commands, tmp_path):
    asked = ["--methods", "wanda", "--sparsity", "50%"]
    assert main([*words, *asked]) == 0
    (run,) = (tmp_path / "out" / "searches").glob("*/run")
    for name in ("evaluations/wanda-s9.json.partial", "results.csv.partial", "searches/other/search.json.partial"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("{")
    other = tmp_path / "out" / "checkpoints" / "other.partial"
    other.mkdir(parents=True)
    mark(other, "checkpoint")
    (run / "unfinished").mkdir()
    mark(run / "unfinished", "run")
    assert main([*words, *asked]) == 0
    assert not [name for name in tree(tmp_path / "out") if "partial" in name or "unfinished" in name]


def test_a_broken_model_has_an_infinite_perplexity_and_no_ratio_that_lies(words, commands, tmp_path, monkeypatch):
    assert main([*words, "--methods", "wanda,magnitude", "--sparsity", "50%"]) == 0
    for path in (tmp_path / "out" / "evaluations").glob("wanda-*.json"):
        content = json.loads(path.read_text())
        content["measured"]["per_window_nll"] = [1000.0] * 5
        del content["checksum"]
        path.write_text(json.dumps(sealed(content)))
    assert main([*words, "--methods", "wanda,magnitude", "--sparsity", "50%"]) == 0
    rows = table(tmp_path / "out")
    # null in strict JSON stands for what is not finite
    assert rows["wanda", "50%/row"]["perplexity"] is rows["wanda", "50%/row"]["ratio"] is None
    assert rows["magnitude", "50%/matrix"]["ratio"] == 0.0


def test_every_search_and_nothing_else_is_told_to_skip_what_is_not_finite(words, commands, monkeypatch):
    run, told = Commands.run, {}

    def watched(self, arguments, **more):
        told[arguments[0]] = "--skip-nonfinite" in arguments
        return run(self, arguments, **more)

    monkeypatch.setattr(Commands, "run", watched)
    assert main([*words, "--methods", "magnitude", "--sparsity", "50%", "--skip-nonfinite"]) == 0
    assert told == {"search": True, "project": False, "perplexity": False}


def test_a_comparison_that_is_stopped_says_what_is_kept(words, commands, capsys):
    commands.stop_before = 2
    assert main([*words, "--methods", "magnitude", "--sparsity", "50%"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped by SIGINT; finished searches and evaluations are kept, and the same command goes on from them"
    )

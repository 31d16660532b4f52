"""Searches and projections repeated from their own records."""

import json
import shutil
from pathlib import Path

import pytest

from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.resolve import parsed
from unipruning_core.search.modes import MODES
from unipruning_core.storage.documents import sealed


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(*words):
    return vars(parsed(build_parser(), list(map(str, words))))


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed({name: value for name, value in content.items() if name != "checksum"})))


def save_rows(path, home, column="text"):
    """Save the text as rows of a table, beside a column of other words."""
    text = (home / "text.txt").read_text()
    rows = [{"more": "other words " * 40, column: text[start : start + 400]} for start in range(0, 4000, 400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("mode", MODES)
def test_a_search_repeated_from_its_record_gives_the_same_bytes(mode, home, search_words, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    extra = ["--seed", "7", "--packing", "document", "--exclude", "*.down_proj", "--metric", "ria", "--samples", "3"]
    extra += ["--data", save_rows(tmp_path / "rows.jsonl", home)]
    extra += ["--drift-weight", "0.01", "--pattern", "2:4"] if mode == "feedback" else []
    assert main(["search", search_words[0], "--seq-len", "16", *extra, "--mode", mode, "--out", str(first)]) == 0
    assert main(["search", "--config", str(first / "run.json"), "--out", str(again)]) == 0
    assert files(again) == files(first)
    assert "dual.safetensors" in {path.name for path in files(first)}


def test_a_projection_repeated_from_its_record_gives_the_same_bytes(search_words, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    words = ["--sparsity", "60%", "2:4", "--mode", "frozen"]
    assert main(["prune", *search_words, *words, "--out", str(first)]) == 0
    for slug in ("60", "2-4"):
        assert main(["prune", "--config", str(first / slug / "unipruning.json"), "--out", str(again / slug)]) == 0
    assert files(again / "60") == files(first / "60")
    assert files(again / "2-4") == files(first / "2-4")
    assert files(tmp_path / "again" / "60-run") == files(tmp_path / "first-run")


def test_rows_that_were_kept_are_kept_again(search_words, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    words = ["--sparsity", "60%/global", "--keep-per-row", "2", "--mode", "frozen"]
    assert main(["prune", *search_words, *words, "--out", str(first)]) == 0
    record = ["--config", str(tmp_path / "first-run" / "run.json")]
    assert main(["project", *record, *words[:4], "--out", str(again)]) == 0
    assert files(again) == files(first)
    shutil.rmtree(again)
    assert main(["prune", "--config", str(first / "unipruning.json"), "--out", str(again)]) == 0
    assert files(again) == files(first)


def test_a_mixture_a_column_and_a_tokenizer_are_repeated(home, tmp_path):
    light, heavy = (save_rows(tmp_path / name, home, "words") for name in ("a.jsonl", "b.jsonl"))
    shutil.copytree(home / "model", tmp_path / "tokenizer")
    data = ["--data", f"0.7:{light}", "--data", heavy, "--text-column", "words"]
    data += ["--tokenizer", str(tmp_path / "tokenizer")]
    words = [str(home / "model"), *data, "--samples", "4", "--seq-len", "16"]
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["search", *words, "--mode", "frozen", "--out", str(first)]) == 0
    record = first / "run.json"
    assert json.loads(record.read_text())["data"]["text_column"] == "words"
    assert main(["search", "--config", str(record), "--out", str(again)]) == 0
    assert files(again) == files(first)
    assert options("search", "--config", record, "--out", "x")["data"] == {
        light: 0.7,
        heavy: 1.0,
    }


@pytest.fixture
def record(search_words, tmp_path):
    assert main(["search", *search_words, "--mode", "frozen", "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run" / "run.json"


def test_what_is_typed_beats_the_record_and_the_rest_can_be_printed(record, capsys):
    found = options("search", "--config", record, "--seed", "5", "--out", "x")
    assert (found["seed"], found["samples"], found["places"]["samples"]) == ("5", 4, str(record))
    capsys.readouterr()
    assert main(["search", "--config", str(record), "--seed", "5", "--dump-config"]) == 0
    printed = capsys.readouterr().out
    recipe = record.with_name("recipe.yaml")
    recipe.write_text(printed)
    again = options("search", "--config", recipe, "--out", "x")
    assert {name: again[name] for name in ("model", "data", "samples", "seq_len", "dtype", "backend")} == {
        name: found[name] for name in ("model", "data", "samples", "seq_len", "dtype", "backend")
    }


def test_a_setting_of_another_mode_beside_a_record_is_refused(record, capsys):
    capsys.readouterr()
    assert main(["search", "--config", str(record), "--mode", "feedback", "--out", "x"]) == 2
    assert f"error: {record}: --quantile is for" in capsys.readouterr().err.replace("--step-size", "--quantile")


def test_a_plan_takes_what_it_knows_of_a_record(record):
    found = options("plan", "--config", record)
    assert (found["mode"], found["seq_len"], found["samples"]) == ("frozen", 16, 4)


def test_other_versions_are_told_and_no_obstacle(record, capsys):
    rewritten(record, lambda content: content["versions"].update(torch="1.0", python="3.0"))
    out = record.parent.with_name("again")
    capsys.readouterr()
    assert main(["search", "--config", str(record), "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert f"{record}: made with python 3.0, here 3." in told
    assert "torch 1.0, here 2" in told
    assert (out / "dual.safetensors").read_bytes() == record.with_name("dual.safetensors").read_bytes()
    assert main(["search", "--config", str(out / "run.json"), "--out", str(record.parent / "third")]) == 0
    assert "made with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content["settings"].update(mode="none"), "'mode' is 'none'"),
        (lambda content: content.pop("data"), "'data' is missing"),
        (lambda content: content["model"].pop("name"), "'name' is missing"),
        (lambda content: content["data"].update(sources=[{"source": 3}]), "'source' is 3"),
        (lambda content: content.update(target_patterns=[1]), "'target_patterns' is [1]"),
        (lambda content: content.update(target_patterns={"exclude": 5}), "'exclude' is 5"),
        (lambda content: content.update(versions=[1]), "'versions' is [1]"),
    ],
    ids=["mode", "data", "name", "sources", "patterns", "pattern", "versions"],
)
def test_a_record_that_lacks_something_is_refused(record, change, says, capsys):
    rewritten(record, change)
    capsys.readouterr()
    assert main(["search", "--config", str(record), "--out", "x"]) == 2
    assert f"error: '{record}' is no whole record ({says}); " in capsys.readouterr().err


def test_a_damaged_record_is_refused(record, capsys):
    record.write_text(record.read_text().replace('"samples": 4', '"samples": 5'))
    capsys.readouterr()
    assert main(["search", "--config", str(record), "--out", "x"]) == 2
    assert "is no whole record (its checksum is" in capsys.readouterr().err


def test_a_command_that_cannot_repeat_a_record_says_which_can(record, capsys):
    capsys.readouterr()
    assert main(["perplexity", "--config", str(record)]) == 2
    assert "what prune, search, project and plan can repeat, which 'perplexity' cannot" in capsys.readouterr().err


def test_the_budget_of_a_projection_is_to_be_given_again(record, search_words, tmp_path, capsys):
    budget = tmp_path / "some.json"
    budget.write_text('{"sparsity": {"*": "50%"}}')
    words = [search_words[0], str(record.parent), "--out"]
    assert main(["project", *words, str(tmp_path / "first"), "--sparsity", f"@{budget}"]) == 0
    report = ["--config", str(tmp_path / "first" / "unipruning.json")]
    again = [search_words[0], str(record.parent), *report, "--out", str(tmp_path / "again")]
    capsys.readouterr()
    assert main(["project", *again]) == 2
    assert "'unipruning project' needs --sparsity" in capsys.readouterr().err
    assert main(["project", *again, "--sparsity", f"@{budget}"]) == 0
    assert "made with the budget @some.json" in capsys.readouterr().err
    assert files(tmp_path / "again") == files(tmp_path / "first")


def test_json_that_is_no_record_is_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.json").write_text('{"samples": 4, "sparsity": ["50%", "2:4"]}')
    found = options("prune", "m", "--config", "recipe.json", "--out", "x")
    assert (found["samples"], found["sparsity"]) == (4, ["50%", "2:4"])

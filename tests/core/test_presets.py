"""Presets of a search: values under a name, which what is given beats."""

import json

import pytest
import yaml

from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.presets import PRESETS
from unipruning_core.cli.resolve import parsed
from unipruning_core.search.choice import settings_of
from unipruning_core.search.modes import DEFAULT_MODE


def printed(capsys, *words):
    assert main([*words, "--dump-config"]) == 0
    return next(iter(yaml.safe_load(capsys.readouterr().out).values()))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("command", ["prune", "search"])
def test_a_preset_is_values_of_options_and_shown_by_help(command, name, capsys):
    values = printed(capsys, command, "--preset", name)
    for dest, value in PRESETS[name].options.items():
        assert dest == "sparsity" or values[dest.replace("_", "-")] == value
    assert ("sparsity" in values) == (command == "prune" and name.startswith("paper"))
    assert "preset" not in values
    text = " ".join(build_parser().commands[command].format_help().split())
    assert all(f"--{dest.replace('_', '-')} " in text for dest in PRESETS[name].options)
    assert f" {name} {PRESETS[name].about} (--mode " in text


def test_the_presets_hold_the_published_values(capsys):
    paper = printed(capsys, "prune", "--preset", "paper-unstructured")
    assert (paper["mode"], paper["coupling"], paper["soft-threshold"]) == ("coupled", 1e-5, 0.001)
    assert (paper["metric"], paper["sparsity"]) == ("stochria", ["60%/global"])
    semi = printed(capsys, "prune", "--preset", "paper-2:4")
    assert (semi["prox-strength"], semi["prox-pattern"], semi["sparsity"]) == (0.001, "2:4", ["2:4"])
    released = printed(capsys, "prune", "--preset", "released")
    assert (released["step-size"], released["quantile"], released["learning-rate"]) == (0.01, 0.001, 1e-4)
    assert (released["max-grad-norm"], released["seed"], released["packing"]) == (1.0, 42, "document")
    assert {values["samples"] for values in (paper, semi, released)} == {128}
    assert {values["seq-len"] for values in (paper, semi, released)} == {4096}


def test_the_best_preset_is_every_default_of_the_default_mode():
    options = dict(PRESETS["best"].options)
    mode, samples = options.pop("mode"), options.pop("samples")
    assert (mode, samples) == (DEFAULT_MODE, build_parser().commands["search"].get_default("samples"))
    defaults = settings_of(DEFAULT_MODE, {}).to_json()
    assert settings_of(mode, options).to_json() == defaults
    assert set(options) == set(defaults) - {"mode", "seed", "pattern"}


def test_what_is_given_beats_the_preset(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: paper-2:4\nseq-len: 512\nlearning-rate: 3e-4\n")
    words = ["prune", "m", "--config", str(recipe), "--out", "x", "--learning-rate", "0", "--sparsity", "4:8"]
    found = parsed(build_parser(), words)
    assert (found.seq_len, found.learning_rate, found.sparsity) == (512, "0", ["4:8"])
    assert (found.samples, found.prox_strength) == (128, 0.001)
    assert parsed(build_parser(), [*words, "--preset", "released"]).seed == 42


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["search", "--preset", "fats"], "not 'fats'; did you mean 'fast'?"),
        (["search", "--preset", "peers"], "not 'peers'; that one is a list of methods, for compare"),
        (["search", "--preset", "fast", "--mode", "drift"], "is for --mode frozen, not 'drift'; leave out one of them"),
        (["compare", "m", "--preset", "fast", "--sparsity", "60%"], "not 'fast'; that one is for prune and search"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_preset_that_does_not_fit_is_refused(words, says, capsys):
    assert main([*words, "--out", "x"]) == 2
    assert says in capsys.readouterr().err


def test_the_record_has_the_values_of_the_preset_and_not_its_name(search_words, tmp_path):
    words = ["search", *search_words, "--preset", "released", "--packing", "packed", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    text = (tmp_path / "run" / "run.json").read_text()
    record = json.loads(text)
    assert (
        record["settings"]
        == settings_of("drift", {**_of_drift(PRESETS["released"].options), "metric": "stochria", "seed": 42}).to_json()
    )
    # the words of the command line beat the preset
    assert (record["data"]["samples"], record["data"]["seq_len"], record["data"]["packing"]) == (4, 16, "packed")
    assert '"released"' not in text


def _of_drift(options):
    own = settings_of("drift", {}).to_json()
    return {name: value for name, value in options.items() if name in own and name != "mode"}

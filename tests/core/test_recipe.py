"""Recipes: options from a file, what of them is refused and where, and what is printed as one."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.recipe import UNTOLD, actions_of
from unipruning_core.cli.resolve import parsed
from unipruning_core.search.modes import MODES

SEVERAL = """\
# one file for two commands
search:
  model: ./m
  data: {a.jsonl: 0.7, b.txt: 1}
  seq_len: 512
  seed: 3
  pattern: 2:4
  include: "*.q_proj"
  checkpoint-activations: on
  skip-nonfinite: yes
  revision:
project:
  model: ./m
  run: run
  sparsity: [50%, 2:4]
  out: pruned
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a recipe; return the words that name it."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        return ["--config", "recipe.yaml"]

    return write


def options(*words):
    return vars(parsed(build_parser(), list(words)))


def printed(capsys, command, *words):
    assert main([command, "--dump-config", *words]) == 0
    return capsys.readouterr().out


def test_a_recipe_gives_what_the_command_line_would(written):
    config = written(SEVERAL)
    typed = ["./m", "--data", "0.7:a.jsonl", "--data", "1:b.txt", "--seq-len", "512", "--seed", "3", "--pattern", "2:4"]
    typed += ["--include", "*.q_proj", "--checkpoint-activations", "on", "--skip-nonfinite", "--out", "run"]
    added = {"config", "places", "data_words"}
    from_recipe, from_words = options("search", *config, "--out", "run"), options("search", *typed)
    assert {name: value for name, value in from_recipe.items() if name not in added} == {
        name: value for name, value in from_words.items() if name not in added
    }
    project = options("project", *config)
    assert (project["model"], project["run_folder"], project["out"]) == ("./m", Path("run"), Path("pruned"))
    assert project["sparsity"] == ["50%", "2:4"]


def test_a_flat_recipe_is_for_whichever_command_reads_it(written):
    config = written("samples: 4\nmode: frozen\n")
    for command in ("search", "plan", "demo"):
        found = options(command, *config, *(["M", "--out", "x"] if command == "search" else ["M"][: command == "plan"]))
        assert (found["samples"], found["mode"]) == (4, "frozen")


def test_the_command_line_beats_the_recipe_even_where_values_add_up(written):
    config = written("model: m\nsparsity: [50%, 60%]\ndata: [a, b]\ninclude: ['*.q', '*.k']\nsamples: 8\nout: x\n")
    found = options("prune", *config, "n", "--sparsity", "2:4", "--data", "c", "--include", "*.v", "--samples", "9")
    assert (found["model"], found["sparsity"], found["data"]) == ("n", ["2:4"], "c")
    assert (found["include"], found["samples"], found["out"]) == (["*.v"], 9, Path("x"))
    assert set(found["places"]) == {"out"}


def test_of_options_that_exclude_each_other_the_command_line_decides(written):
    config = written("model: llama-2-7b\n")
    assert options("bench", *config)["model"] == "llama-2-7b"
    found = options("bench", *config, "--shape", "8x8")
    assert (found["model"], found["shape"]) == (None, ["8x8"])


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        (
            "search",
            "seed: 1\n\nsamplez: 3\n",
            ":3: 'unipruning search' has no option 'samplez'; did you mean 'samples'?",
        ),
        (
            "search",
            "sparsity: 50%\n",
            ":1: 'unipruning search' has no option 'sparsity', which is for plan, prune, ",
        ),
        ("search", "zzzzz: 1\n", ":1: 'unipruning search' has no option 'zzzzz'; its help lists those it has"),
        ("search", "config: other.yaml\n", ":1: 'unipruning search' has no option 'config'"),
        ("search", "searchh:\n  seed: 1\n", ":1: 'unipruning search' has no option 'searchh'; did you mean 'search'?"),
        ("search", "search:\n  seed: 1\nprojectt:\n  out: x\n", ":3: beside the parts of commands there is 'projectt'"),
        ("prune", "search:\n  seed: 1\n", "'recipe.yaml' has no part for 'prune', only for search"),
        ("search", "samples: many\n", ":1: --samples must be a whole number, not 'many'"),
        ("search", "samples: 1.5\n", ":1: --samples must be a whole number, not '1.5'"),
        ("search", "samples: [1, 2]\n", ":1: samples must be one word or number, not a list"),
        ("search", "samples:\n  more: 1\n", ":2: samples must be one word or number, not options below it"),
        ("search", "include: [a,\n null]\n", ":2: each of include must be one word or number, not 'null'"),
        ("search", "quiet: maybe\n", ":1: quiet must be true or false, not 'maybe'"),
        ("search", "quiet: 1\n", ":1: quiet must be true or false, not '1'"),
        ("search", "samples: !!binary aGk=\n", ":1: samples must be one word or number, not binary 'aGk='"),
        ("search", "samples: !!python/object:os.system x\n", ":1: samples must be one word or number, not "),
        ("search", "mode: feedbak\n", ":1: --mode must be one of feedback, drift, frozen, coupled, not 'feedbak'; did"),
        ("search", "packing: packedd\n", ":1: --packing must be one of packed, document, not 'packedd'; did you mean"),
        ("search", "dtype: bf16\n", ":1: --dtype must be one of auto, float32, bfloat16, float16, not 'bf16'; did you"),
        ("search", "save-every: often\n", ":1: --save-every must be 0 or more seconds"),
        ("search", "max-memory: lots\n", ":1: --max-memory must be a size such as 22GiB"),
        ("search", "include: 're:('\n", ":1: --include 're:(' is not a regular expression"),
        ("search", "preset: fats\n", ":1: --preset must be one of "),
        ("search", "preset: fast\nmode: drift\n", ":1: --preset fast is for --mode frozen, not 'drift'"),
        ("prune", "sparsity:\n- 50%\n- 0.6\n", ":3: sparsity '0.6' is neither"),
        (
            "prune",
            "sparsity: @budget.json\n",
            ":1: this is no YAML: found character '@' that cannot start any token; put",
        ),
        ("allocate", "sparsity: [50%, 60%]\n", ":1: sparsity must be one word or number, not a list"),
        ("compare", "methods: [wanda, wnada]\n", ":1: method must be one of "),
        ("compare", "preset: fast\n", ":1: preset must be one of peers, ablation, sensitivity, not 'fast'"),
        ("bench", "model: m\nshape: 8x8\n", ":2: shape is not allowed beside model"),
        ("search", "seed: 1\nout: x\nseed: 2\n", ":3: seed is given twice, at recipe.yaml:1 too"),
        ("search", "seq-len: 1\nseq_len: 2\n", ":2: seq_len is given twice, at recipe.yaml:1 too"),
        ("search", "seed: 1\n  out: x\n", ":2: this is no YAML: "),
        ("search", "seed: 1\n---\nseed: 2\n", ":2: this is no YAML: "),
        ("search", "- seed\n", ":1: a recipe must be lines such as 'samples: 64', not a list"),
        ("search", "[a]: 1\n", ":1: an option must be one word or number, not a list"),
        ("search", "include: &all [*all]\n", "recipe.yaml"),
        ("search", "", "recipe 'recipe.yaml' is empty"),
        ("search", "[" * 5000, "recipe 'recipe.yaml' is nested too deeply"),
        ("search", "seed: \x01\n", "recipe 'recipe.yaml' is no text of YAML: "),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_is_wrong_in_a_recipe_is_refused_with_its_line(command, text, says, written, capsys):
    assert main([command, *written(text)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert "recipe.yaml" in error


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        (
            "search",
            "out: x\nmode: frozen\nmodel: .\nramp-sparsity: 0.5\n",
            ":4: --ramp-sparsity is for --mode feedback",
        ),
        (
            "search",
            "out: x\nmodel: .\nmetric: wonda\n",
            ":3: --metric must be one of magnitude, wanda, ria, stochria, not",
        ),
        ("search", "out: x\nmodel: .\nramp_sparsity: 2\n", ":3: --ramp-sparsity must lie in [0, 1), not 2.0"),
        ("search", "out: x\nmodel: .\nseed: -1\n", ":3: --seed must lie in"),
        ("compare-sparsegpt", "out: x\nmodel: .\nsparsity: 2:4\ndampening: -1\n", ":4: --dampening must"),
        ("search", "out: x\nmodel: .\npattern: 2-4\n", ":3: --pattern must be N:M, such as 2:4, not '2-4'"),
        ("search", "out: x\nmodel: ./none\n", ":2: model './none' does not exist"),
        ("search", "out: x\nmodel: m\nbackend: cup\n", ":3: no backend is called 'cup'"),
        ("search", "out: x\nmodel: {}\ndata: none.txt\n", ":3: 'none.txt' is not a file"),
        ("project", "out: x\nmodel: {}\nrun: none\nsparsity: 50%\n", ":3: run folder 'none' does not exist"),
        ("prune", "out: x\nmodel: {}\nsparsity: [50%, 50.0%]\n", ":3: sparsity '50%' was given twice"),
        ("prune", "out: x\nmodel: {}\nsparsity: ['@none.json']\n", ":3: budget 'none.json' cannot be read"),
    ],
    ids=lambda value: value[-30:],
)
def test_what_is_found_wrong_later_has_its_line_too(command, text, says, written, home, capsys):
    assert main([command, *written(text.replace("{}", str(home / "model")))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: recipe.yaml:")
    assert says in error


def test_what_is_typed_has_no_line(written, capsys):
    assert main(["search", *written("backend: cpu\nmodel: .\n"), "--out", "x", "--backend", "cup"]) == 2
    assert capsys.readouterr().err.startswith("error: no backend is called 'cup'")


def test_one_file_is_read(written, capsys):
    config = written("samples: 4\n")
    assert main(["search", *config, *config]) == 2
    assert "--config takes one value in 'unipruning search', not" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.yaml").write_bytes(b"seed: \xff\n")
    for name, says in {
        "none.yaml": "recipe 'none.yaml' cannot be read: No such file or directory; check the path",
        ".": "recipe '.' cannot be read: it is not a regular file",
        "none.json": "record 'none.json' cannot be read: No such file or directory; check the path",
        "wide.yaml": "recipe 'wide.yaml' is no text of YAML: 'utf-8' codec can't decode",
    }.items():
        assert main(["search", "--config", name]) == 2
        assert says in capsys.readouterr().err


WORDS = {
    "prune": ["m", "--sparsity", "50%", "2:4", "--out", "x", "--keep-per-row", "1", "--run", "r", "--seed", "0"],
    "search": ["m", "--out", "x", "--data", "0.7:a", "--data", "b", "--exclude", "*.q", "--overwrite"],
    "project": ["m", "r", "--sparsity", "@b.json", "2:4", "--out", "Überall", "--backend", "cpu"],
    "allocate": ["m", "r", "--scheme", "owl", "--sparsity", "60%", "--out", "b.json", "--spread", "0.1"],
    "dequantize": ["m", "--out", "on", "--revision", "1e3"],
    "perplexity": ["m", "null", "--data", "wikitext2", "--windows", "4", "--json"],
    "eval": ["m", "pruned", "--tasks", "arc_easy,piqa", "--data", "a", "--data", "b", "--limit", "5", "--out", "x"],
    "report": ["r", "p", "--out", "x.html"],
    "export": ["p", "--to", "gguf", "--type", "Q8_0", "--out", "x", "--force"],
    "unpack": ["p", "--out", "x"],
    "card": ["p", "--results", "r.json"],
    "push": ["p", "a/b", "--private", "--message", "of: it's"],
    "demo": ["--sparsity", "60%", "--mode", "frozen"],
    "compare": ["m", "--methods", "wanda,feedback:pattern=2:4", "--preset", "peers", "--sparsity", "60%", "--out", "x"],
    "compare-sparsegpt": ["m", "--sparsity", "2:4", "--out", "x", "--dampening", "0.02"],
    "bench": ["mirror_step", "nm_mask", "--shape", "8x8", "--repeat", "3"],
    "plan": ["m", "--sparsity", "60%", "--mode", "drift", "--prox-strength", "1e-05", "--flops", "1.5"],
    "targets": ["m", "--include", "re:.*\\.[qk]_proj", "--all"],
    "check-zeros": ["p", "r", "--require", "100%"],
    "size": ["p", "--json"],
    "backends": ["--json"],
    "conform": ["--backend", "cpu", "--", "-x", "-k", "nm"],
    "doctor": ["--json", "d.json"],
}


@pytest.mark.parametrize("command", WORDS)
def test_a_printed_recipe_gives_the_same(command, written, capsys):
    Path("b.json").write_text('{"sparsity": {"*": "50%"}}')
    text = printed(capsys, command, *WORDS[command])
    assert list(yaml.safe_load(text)) == [command]
    config = written(text)
    again, typed = options(command, *config), options(command, *WORDS[command])
    # what a recipe spells out was left to the mode
    settings = {item.name for kind in MODES.values() for item in fields(kind)} | {"mode"}
    for name in set(typed) - {"config", "places", "data_words", *(settings if "metric" in typed else ())}:
        assert again[name] == typed[name], name
    assert printed(capsys, command, *config) == text


def names_of(kind):
    return {item.name.replace("_", "-") for item in fields(kind)}


def test_every_command_has_words_to_be_printed():
    assert set(WORDS) == set(build_parser().commands)


def test_the_printed_recipe_has_every_setting_of_the_mode_and_no_other(capsys):
    for mode, kind in MODES.items():
        content = yaml.safe_load(printed(capsys, "search", "--mode", mode))["search"]
        own = names_of(kind)
        others = set().union(*map(names_of, MODES.values())) - own
        assert own <= set(content)
        assert not others & set(content)


def test_nothing_is_printed_of_a_setting_that_the_mode_lacks(capsys):
    assert main(["search", "--mode", "frozen", "--ramp-sparsity", "0.5", "--dump-config"]) == 2
    assert "--ramp-sparsity is for --mode feedback" in capsys.readouterr().err


def test_every_option_has_a_key_of_its_name():
    for name, parser in build_parser().commands.items():
        keys = actions_of(parser)
        assert all(re.fullmatch("[a-z][a-z-]*", key) for key in keys), name
        assert {action.dest for action in parser._actions} - {action.dest for action in keys.values()} <= set(UNTOLD)

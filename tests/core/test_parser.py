"""The parser of the commands: what it refuses and how, and one form of sparsities everywhere."""

import pytest

from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.resolve import parsed
from unipruning_core.errors import ConfigError


def options(*words):
    return parsed(build_parser(), list(words))


@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity", "50%", "60%", "2:4"],
        ["--sparsity", "50%", "--sparsity", "60%", "2:4"],
        ["--sparsity=50%", "60%", "--sparsity", "2:4"],
        ["--sparsity=50%", "--sparsity=60%", "--sparsity=2:4"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "before", [["prune", "M"], ["project", "M", "R"], ["compare", "M"], ["plan", "M"], ["demo"]], ids=" ".join
)
def test_sparsities_follow_one_flag_or_each_its_own(before, words):
    out = [] if before[0] == "plan" else ["--out", "x"]
    assert options(*before, *words, *out).sparsity == ["50%", "60%", "2:4"]
    assert build_parser().parse_args([*before, *words, *out]).sparsity == ["50%", "60%", "2:4"]


def test_a_name_behind_sparsities_is_no_sparsity():
    found = options("prune", "--sparsity", "50%", "60%", "./M", "--out", "x")
    assert (found.model, found.sparsity) == ("./M", ["50%", "60%"])
    found = options("project", "--sparsity", "2:4", "M", "R", "--out", "x")
    assert (found.model, str(found.run_folder), found.sparsity) == ("M", "R", ["2:4"])
    found = options("project", "--sparsity", "60%", "--out", "x", "--", "M", "2:4")
    assert (str(found.run_folder), found.sparsity) == ("2:4", ["60%"])


def test_a_number_behind_sparsities_is_a_sparsity_and_asked_about(capsys):
    assert main(["prune", "M", "--sparsity", "50%", "0.6", "--out", "x"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean 60%?\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prunee"], "no command is called 'prunee'; did you mean 'prune'?"),
        (["zzz"], "no command is called 'zzz'; there are targets, plan, prune, "),
        ([], "no command is given; there are targets, plan, prune, "),
        (["--quiet", "prune"], "'unipruning' has no option '--quiet'"),
        (["search", "M", "--samplez", "4"], "has no option '--samplez'; did you mean '--samples'?"),
        (["search", "M", "--samplez=4"], "has no option '--samplez'; did you mean '--samples'?"),
        (["search", "M", "--zzzzz"], "has no option '--zzzzz'; 'unipruning search --help' lists those it has"),
        # an earlier name, which is accepted but not shown
        (["search", "M", "--fieldd", "x"], "has no option '--fieldd'; 'unipruning search --help'"),
        (["search", "M", "N", "--out", "x"], "takes MODEL, and no 'N' besides"),
        (["backends", "N"], "takes options alone, and no 'N' besides"),
        (["search", "M", "--samples", "x", "--out", "o"], "--samples must be a whole number, not 'x'"),
        (["plan", "M", "--flops", "x"], "--flops must be a number, not 'x'"),
        (["search", "M", "--packing", "packedd"], "--packing must be one of packed, document, not 'packedd'; did"),
        (["search", "M", "--out"], "--out: expected one argument; 'unipruning search --help' shows how"),
        (["search"], "'unipruning search' needs MODEL and --out; "),
        (["project"], "'unipruning project' needs MODEL, RUN, --sparsity and --out; "),
        (["bench", "--shape", "1x1", "--model", "m"], "--model: not allowed with argument --shape"),
        (
            ["allocate", "M", "R", "--sparsity", "50%", "60%"],
            "--sparsity takes one value in 'unipruning allocate', not",
        ),
        (["compare-sparsegpt", "M", "--sparsity", "2:4", "--sparsity", "2:4"], "takes one value in"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_parsed_is_refused_in_one_sentence(words, says, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error


def test_what_is_given_is_told_from_what_is_left_at_its_default():
    search = build_parser().commands["search"]
    given = search.given(["M", "--samples", "128", "--include", "*.q_proj"])
    assert given.items() >= {"model": "M", "samples": 128, "include": ["*.q_proj"]}.items()
    assert not {"seq_len", "data", "exclude", "out", "quiet"} & set(given)
    with pytest.raises(ConfigError, match="needs --out"):
        search.completed(given)
    completed = search.completed({**given, "out": "x"})
    assert (completed.data, completed.exclude, completed.quiet) == ("c4", [], False)


@pytest.mark.parametrize("command", build_parser().commands)
def test_help_is_the_one_of_the_parser_and_leaves_with_0(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert not left.value.code
    shown = capsys.readouterr().out
    assert shown == build_parser().commands[command].format_help()


def test_a_parser_is_as_it_was_after_a_refusal():
    search = build_parser().commands["search"]
    before = search.format_usage()
    with pytest.raises(ConfigError):
        search.given(["--samples", "x"])
    assert search.format_usage() == before

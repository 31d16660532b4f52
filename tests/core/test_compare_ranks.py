"""A comparison whose searches, projections and evaluations are shared by ranks that it starts."""

import csv
import subprocess
import sys

import pytest

from unipruning_core.cli.main import main
from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Progress
from unipruning_core.tools.processes import Commands

METHODS = ["--methods", "feedback", "--sparsity", "50%"]


def rows_in(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [[row[name] for name in ("method", "sparsity", "perplexity")] for row in csv.DictReader(file)]


def test_the_figures_are_those_of_one_process(words, commands, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shared = [*words[:-1], str(tmp_path / "shared"), *METHODS, "--ranks", "2"]
    # in processes of its own, unlike those of the fixture
    subprocess.run([sys.executable, "-m", "unipruning_core", *shared], check=True)
    assert main([*words, *METHODS]) == 0
    assert rows_in(tmp_path / "shared") == rows_in(tmp_path / "out")
    assert len(rows_in(tmp_path / "out")) == 2
    # what ranks added up in another order is not taken for the sums of one process
    names = [{path.name for path in (tmp_path / name / "searches").iterdir()} for name in ("shared", "out")]
    assert not names[0] & names[1]


def test_every_shared_command_is_told_how_many(words, commands, monkeypatch):
    assert main([*words, "--methods", "owl,sparsegpt", "--sparsity", "50%", "--ranks", "3"]) == 0
    assert set(zip(commands, commands.ranks, strict=True)) == {
        ("search", 3),
        ("project", 3),
        ("perplexity", 3),
        ("allocate", 1),
        ("compare-sparsegpt", 1),
    }


def test_the_reason_is_that_of_the_command_and_not_of_its_launcher(home):
    words = ["perplexity", str(home / "nowhere"), "--data", str(home / "text.txt")]
    said = r"'unipruning perplexity' failed with exit code 1; .*does not exist"
    with Commands(Progress()) as commands, pytest.raises(UnipruningError, match=said):
        commands.run(words, ranks=2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ranks", "0"], "--ranks must be a whole number from 1, not 0"),
        (["--ranks", "2", "--skip-nonfinite"], "--skip-nonfinite runs in one process"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words, commands, capsys, more, said):
    assert main([*words, "--methods", "magnitude", "--sparsity", "50%", *more]) == 2
    assert said in capsys.readouterr().err
    assert not commands

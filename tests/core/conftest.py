"""Checkpoints and searches that several files of tests read, copies to damage, and commands."""

import contextlib
import io
import shutil

import pytest
import torch
from _checkpoints import EVIL, overflowing_at, save_gpt2, save_home, save_llama, save_text, save_tokenizer
from _folders import SEARCH, succeed
from _mixtures import save_mixture

from unipruning_core.cli.main import main
from unipruning_core.tools.processes import Commands, Stage


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("sharded"), shards=True)


@pytest.fixture
def copy(single, tmp_path):
    """A folder to damage."""
    return shutil.copytree(single, tmp_path / "copy")


@pytest.fixture
def copy_of_shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "copy")


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tmp_path):
    """A tiny model of each way to store a weight."""
    if request.param == "gpt2":
        return save_gpt2(tmp_path / "m")
    return save_llama(tmp_path / "m", dtype=torch.float32)


@pytest.fixture
def overflowing(tmp_path):
    """A model in float16 that gives NaN wherever it reads EVIL."""
    return overflowing_at(save_llama(tmp_path / "model", dtype=torch.float16), EVIL)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A tiny model with a tokenizer and a text, made once and never changed."""
    return save_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def mixture(tmp_path_factory):
    """A tiny mixture of experts with a tokenizer in ``model``, and a text, made once and never changed."""
    folder = tmp_path_factory.mktemp("mixture")
    save_mixture(folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    return folder


@pytest.fixture
def search_words(home):
    """The model and a short calibration, as commands that search take them."""
    return [str(home / "model"), "--data", str(home / "text.txt"), "--samples", "4", "--seq-len", "16"]


@pytest.fixture
def commands(monkeypatch):
    """Every command that a comparison runs, run in this process; ``stop_before`` ends it like a kill would."""

    class Seen(list):
        stop_before = None

        def __init__(self):
            super().__init__()
            self.ranks = []

    seen = Seen()

    def run(self, words, *, ranks=1):
        if len(seen) == seen.stop_before:
            raise KeyboardInterrupt
        seen.append(words[0])
        seen.ranks.append(ranks)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(words) == 0
        return Stage(printed.getvalue(), 1.5, 64.0)

    monkeypatch.setattr(Commands, "run", run)
    monkeypatch.setattr(Commands, "call", lambda self, work: work())
    return seen


@pytest.fixture
def words(home, tmp_path):
    text = str(home / "text.txt")
    calibration = ["--data", text, "--samples", "3", "--seq-len", "16"]
    evaluation = ["--eval-data", text, "--eval-seq-len", "32", "--windows", "5"]
    return ["compare", str(home / "model"), *calibration, *evaluation, "--out", str(tmp_path / "out")]


@pytest.fixture(scope="session")
def model(home):
    """The model and the text, as every command that searches takes them."""
    return [str(home / "model"), "--data", str(home / "text.txt")]


@pytest.fixture(scope="session")
def finished(model, tmp_path_factory):
    """A finished search of each of two seeds, made once and never changed."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        succeed("search", *model, *SEARCH, "--mode", "drift", "--seed", seed, "--out", folder / str(seed))
    return folder


@pytest.fixture
def refused(capsys):
    """Assert that a command is refused with one sentence; return it."""

    def check(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return check

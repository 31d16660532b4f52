"""Checkpoints that several files of tests read, and copies to damage."""

import shutil

import pytest
import torch
from _checkpoints import save_gpt2, save_home, save_llama


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


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A tiny model with a tokenizer and a text, made once and never changed."""
    return save_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def search_words(home):
    """The model and a short calibration, as commands that search take them."""
    return [str(home / "model"), "--data", str(home / "text.txt"), "--samples", "4", "--seq-len", "16"]

"""Tensors that a checkpoint holds and its model has no use for: copied as they are, whatever is in them."""

import pytest
import torch
from _checkpoints import changed, save_llama, save_text, save_tokenizer

import unipruning
from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Checkpoint

OLD = "model.layers.0.self_attn.masked_bias"


@pytest.fixture
def pruned(tmp_path):
    """A function that prunes a model whose tensors a function has changed."""

    def prune(change):
        folder = changed(save_llama(tmp_path / "model"), change)
        save_tokenizer(folder)
        save_text(tmp_path / "text.txt")
        data = {"data": str(tmp_path / "text.txt"), "samples": 2, "seq_len": 16, "progress": False}
        unipruning.prune(str(folder), sparsity="50%", out=tmp_path / "out", mode="frozen", **data)
        return Checkpoint.open(folder), Checkpoint.open(tmp_path / "out")

    return prune


def test_a_buffer_of_an_older_version_may_be_infinite(pruned):
    before, after = pruned(lambda tensors: tensors.update({OLD: torch.tensor(-float("inf"))}))
    assert torch.equal(before.read(OLD), after.read(OLD))


def test_rows_of_an_embedding_that_are_not_finite_are_counted(pruned):
    def spoil(tensors):
        tensors["model.embed_tokens.weight"][[1, 5]] = float("nan")

    with pytest.raises(CheckpointError, match=r"'model.embed_tokens.weight' holds .* infinite, in 2 of its \d+ rows;"):
        pruned(spoil)

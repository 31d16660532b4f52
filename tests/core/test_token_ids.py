"""Token ids that the model has no embedding for: found before the model is loaded."""

import pytest
import torch
from _checkpoints import save_text, save_tokenizer
from _modes import batches
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.data.token_ids import check_ids, id_tensor
from unipruning_core.errors import DataError
from unipruning_core.jobs import opened
from unipruning_core.models.loading import embedding_rows

SAYS = (
    "error: the tokenizer does not belong to the model: on {!r} it gives the token id 30, but the model's embedding "
    "has only 20 rows; use the tokenizer files that came with the model"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model of 20 tokens with a tokenizer of 31."""
    folder = tmp_path_factory.mktemp("small")
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    return folder


@pytest.mark.parametrize("command", ["search", "perplexity", "compare"])
def test_a_tokenizer_of_another_model_is_refused_before_the_weights_are_read(
    small, tmp_path, capsys, monkeypatch, commands, command
):
    monkeypatch.setattr(opened, "load_model", None)
    text, out = str(small / "text.txt"), ["--out", str(tmp_path / "out")]
    options = {
        "search": ["--samples", "37", *out],
        "perplexity": [],
        "compare": ["--samples", "37", "--eval-data", text, "--methods", "wanda", "--sparsity", "50%", *out],
    }[command]
    assert main([command, str(small / "model"), "--data", text, "--seq-len", "16", *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == SAYS.format(text)


def test_a_model_in_memory_is_compared_too(small):
    model = AutoModelForCausalLM.from_pretrained(small / "model")
    options = {"data": str(small / "text.txt"), "seq_len": 16, "progress": False}
    tokenizer = AutoTokenizer.from_pretrained(small / "model")
    with pytest.raises(DataError, match="embedding has only 20 rows"):
        unipruning.search(model, tokenizer, samples=3, **options)
    with pytest.raises(DataError, match="embedding has only 20 rows"):
        unipruning.perplexity(model, tokenizer, **options)
    model.resize_token_embeddings(40)
    assert embedding_rows(model) == 40
    assert unipruning.perplexity(model, tokenizer, **options).windows == 600 // 16


def test_windows_and_text_are_checked_before_the_weights_are_read(home, capsys, monkeypatch):
    monkeypatch.setattr(opened, "load_model", None)
    words = ["perplexity", str(home / "model"), "--data", str(home / "text.txt"), "--seq-len"]
    assert main([*words, "16", "--windows", "0"]) == 2
    assert "at least 1 window, not 0" in capsys.readouterr().err
    assert main([*words, "700"]) == 2
    assert "one window needs 700 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, None, 2], "gives None for a token"),
        ([1, "word"], "gives 'word' for a token"),
        ([1, 1 << 70], f"gives {1 << 70} for a token"),
        ([3, -7], "gives the token id -7"),
    ],
)
def test_what_is_no_id_is_refused(ids, says):
    with pytest.raises(DataError, match=f"on 'a text' it {says}; use the tokenizer files"):
        id_tensor(ids, "a text")


def test_ids_are_compared_with_the_rows_there_are():
    ids = batches(2, vocabulary=30)
    largest = max(int(part.max()) for part in ids)
    check_ids(ids, "a text", largest + 1, pytest.fail)
    check_ids(ids, "a text", 0, lambda: None)  # unknown
    check_ids(ids, "a text", largest, lambda: largest + 1)  # padded
    check_ids([torch.empty(0, dtype=torch.int64)], "a text", 0, lambda: 0)
    with pytest.raises(DataError, match=f"gives the token id {largest}, but the model's embedding has only {largest} "):
        check_ids(ids, "a text", 0, lambda: largest)

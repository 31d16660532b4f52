"""How many tokens a model has positions for, whatever its config calls them, and what is refused for it."""

import pytest
import torch
from _checkpoints import save_text, save_tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    RobertaConfig,
    WhisperConfig,
    XLNetConfig,
)

from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.jobs import opened
from unipruning_core.models.outline import outline
from unipruning_core.models.positions import LONGEST_WINDOW, NAMES, check_seq_len, positions_of, window_length


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(max_position_embeddings=64),
        GPT2Config(n_positions=64),
        Gemma3Config(text_config={"max_position_embeddings": 64}),
        MptConfig(max_seq_len=64),
        WhisperConfig(max_target_positions=64),
        *(PretrainedConfig(**{name: 64}) for name in NAMES),
        PretrainedConfig(max_position_embeddings=64, seq_length=32),  # the length it was trained with
    ],
    ids=lambda config: config.model_type,
)
def test_a_length_beyond_the_models_positions_is_refused(config):
    check_seq_len(positions_of(config), 64)
    with pytest.raises(ConfigError, match="--seq-len 65 is more than the model's 64 positions; pass at most 64"):
        check_seq_len(positions_of(config), 65)


@pytest.mark.parametrize("config", [BloomConfig(), XLNetConfig(), PretrainedConfig(max_seq_len=-1)], ids=type)
def test_a_model_without_a_limit_of_positions_takes_any_length(config):
    assert positions_of(config) is None
    check_seq_len(positions_of(config), 1_000_000)
    assert window_length(positions_of(config), None) == LONGEST_WINDOW


def test_a_length_that_leaves_nothing_to_predict_is_refused():
    with pytest.raises(ConfigError, match="must be at least 2"):
        check_seq_len(None, 1)


def test_positions_that_are_no_number_are_refused():
    with pytest.raises(CheckpointError, match="config is not usable"):
        positions_of(PretrainedConfig(max_seq_len="many"))


SIZES = {"vocab_size": 48, "num_attention_heads": 2}
HIDDEN = {**SIZES, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
KINDS = {
    "gpt2": (GPT2Config(vocab_size=48, n_positions=20, n_embd=16, n_layer=2, n_head=2), 20),
    "opt": (
        OPTConfig(**SIZES, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, max_position_embeddings=20),
        20,
    ),
    "bart": (BartConfig(vocab_size=48, d_model=16, **LAYERS, **HEADS, max_position_embeddings=20), 20),
    # begins to count after the index of the padding, 1
    "roberta": (RobertaConfig(**HIDDEN, is_decoder=True, max_position_embeddings=22), 20),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_a_table_of_positions_tells_how_many_there_are(kind, named):
    config, positions = KINDS[kind]
    model = AutoModelForCausalLM.from_config(config).eval()
    assert positions_of(config if named else PretrainedConfig(), model) == positions
    model(torch.full((1, positions), 5), use_cache=False)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, positions + 1), 5), use_cache=False)


def test_a_table_that_is_a_bare_parameter_counts_and_other_embeddings_do_not():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**HIDDEN))
    model.model.segments, model.model.position_of_image = nn.Embedding(3, 16), nn.Embedding(3, 8)
    assert positions_of(PretrainedConfig(), model) is None
    model.model.pos_emb = nn.Parameter(torch.zeros(1, 7, 16))
    assert positions_of(PretrainedConfig(), model) == 7


@pytest.fixture(params=["mpt", "roberta"])
def short(request, tmp_path):
    """A model of 20 positions by another name, or by none, with its text."""
    mpt = MptConfig(vocab_size=48, d_model=16, n_layers=2, n_heads=2, max_seq_len=20)
    config = mpt if request.param == "mpt" else KINDS["roberta"][0]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    save_text(tmp_path / "text.txt")
    return tmp_path


def test_every_command_refuses_more_before_the_model_is_loaded(short, refused, monkeypatch):
    monkeypatch.setattr(opened, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    data, out = ["--data", short / "text.txt", "--seq-len", 21], ["--out", short / "out"]
    for command in (
        ["search", short / "model", *data, *out],
        ["perplexity", short / "model", *data],
        ["compare-sparsegpt", short / "model", *data, *out, "--sparsity", "50%"],
        ["plan", short / "model", "--seq-len", 21],
    ):
        assert "--seq-len 21 is more than the model's 20 positions; pass at most 20" in refused(*command)


def test_the_default_length_is_that_of_the_model(short, capsys):
    assert outline(str(short / "model")).positions == 20
    assert main(["perplexity", str(short / "model"), "--data", str(short / "text.txt"), "--windows", "2"]) == 0
    assert "in 2 windows of 20;" in capsys.readouterr().out

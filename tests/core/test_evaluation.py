"""Perplexity against a plain computation of the same number."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from unipruning_core.data import perplexity as evaluation
from unipruning_core.data.perplexity import perplexity
from unipruning_core.data.text import Text
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.progress import Progress, Task

VOCABULARY = 50
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "llama": LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, initializer_range=0.5, **SIZES),
    "llama, tied": LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, initializer_range=0.5, **SIZES),
    # its logits are capped after the head
    "gemma2": Gemma2Config(
        vocab_size=VOCABULARY,
        head_dim=8,
        num_key_value_heads=1,
        initializer_range=2.0,
        final_logit_softcapping=3.0,
        **SIZES,
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5),
    # its hidden states are projected before the head
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=8,
        init_std=0.5,
        do_layer_norm_before=False,
    ),
}


def make_model(name: str = "llama", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name]).to(dtype)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: "w17" is 17, and the blank line between documents is not one."""
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def make_ids(length: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(1)).tolist()


def make_text(*documents: list[int]) -> Text:
    return Text(tuple(" ".join(f"w{index}" for index in ids) for ids in documents), "made up", "5" * 64)


def plain_losses(model: torch.nn.Module, ids: list[int], seq_len: int) -> list[float]:
    """Compute the losses window by window and token by token, with no shortcut."""
    losses = []
    for start in range(0, len(ids) - seq_len + 1, seq_len):
        window = ids[start : start + seq_len]
        with torch.no_grad():
            probabilities = model.eval()(torch.tensor([window])).logits[0].float().log_softmax(dim=-1)
        losses.append(-sum(probabilities[i, window[i + 1]].item() for i in range(seq_len - 1)) / (seq_len - 1))
    return losses


@pytest.mark.parametrize("logits_at_once", [2**25, VOCABULARY * 5], ids=["at once", "in chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_perplexity_is_what_the_formula_says(monkeypatch, name, dtype, logits_at_once):
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", logits_at_once)
    model, ids = make_model(name, dtype), make_ids(100)
    measured = perplexity(model, make_tokenizer(), make_text(ids), seq_len=24)
    wanted = plain_losses(model, ids, 24)
    # a bf16 product rounds by its shape
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    assert measured.per_window_nll == pytest.approx(wanted, rel=tolerance)
    assert measured.nll == pytest.approx(sum(wanted) / 4, rel=tolerance)
    assert measured.perplexity == math.exp(measured.nll)
    assert (measured.windows, measured.tokens, measured.seq_len) == (4, 4 * 23, 24)
    assert (measured.source, measured.data_sha256) == ("made up", "5" * 64)


def test_the_loss_of_a_bf16_model_is_taken_in_fp32():
    # a model whose logits are made all at once: the very logits of the plain computation
    model, ids = make_model("gemma2", torch.bfloat16), make_ids(96)
    measured = perplexity(model, make_tokenizer(), make_text(ids), seq_len=24)
    assert measured.per_window_nll == pytest.approx(plain_losses(model, ids, 24), rel=1e-6)


def test_documents_are_joined_before_they_are_cut():
    model, ids = make_model(), make_ids(64)
    split = perplexity(model, make_tokenizer(), make_text(ids[:10], [], ids[10:]), seq_len=32)
    whole = perplexity(model, make_tokenizer(), make_text(ids), seq_len=32)
    assert split.per_window_nll == whole.per_window_nll
    joined = perplexity(model, make_tokenizer(), make_text(ids[:10], ids[10:]), seq_len=32, join=" w7 ")
    assert joined.per_window_nll == pytest.approx(plain_losses(model, [*ids[:10], 7, *ids[10:]], 32), rel=1e-5)


def test_the_first_windows_can_be_measured_alone():
    model, text = make_model(), make_text(make_ids(100))
    every = perplexity(model, make_tokenizer(), text, seq_len=20)
    some = perplexity(model, make_tokenizer(), text, seq_len=20, windows=2)
    assert some.per_window_nll == every.per_window_nll[:2]
    assert (some.windows, every.windows) == (2, 5)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_no_more_logits_exist_at_once_than_allowed(monkeypatch, name):
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", VOCABULARY * 10)
    model = make_model(name)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: rows.append(logits.shape[-2]))
    perplexity(model, make_tokenizer(), make_text(make_ids(64)), seq_len=32)
    assert max(rows) == 10
    assert sum(rows) == 2 * 31 + 2 * evaluation.PROBE_TOKENS


def test_dropout_is_off():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.9, embd_pdrop=0.9)
    model = AutoModelForCausalLM.from_config(config).train()
    ids = make_ids(32)
    measured = perplexity(model, make_tokenizer(), make_text(ids), seq_len=32)
    assert measured.per_window_nll == pytest.approx(plain_losses(model, ids, 32), rel=1e-5)


def test_progress_shows_the_perplexity_so_far():
    shown: list[object] = []
    opened: list[tuple[str, int, str]] = []

    class Shown(Task):
        def advance(self, amount: int = 1, **values: object) -> None:
            shown.append(values["perplexity"])

    class Recorded(Progress):
        @contextmanager
        def task(self, label, total, unit, done=0):
            opened.append((label, total, unit))
            yield Shown()

    measured = perplexity(make_model(), make_tokenizer(), make_text(make_ids(64)), seq_len=16, progress=Recorded())
    assert opened == [("perplexity", 4, "windows")]
    assert shown == [pytest.approx(math.exp(sum(measured.per_window_nll[:count]) / count)) for count in range(1, 5)]


def test_fewer_windows_than_requested_are_reported():
    notes: list[str] = []

    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    measured = perplexity(
        make_model(), make_tokenizer(), make_text(make_ids(40)), seq_len=16, windows=9, progress=Notes()
    )
    assert measured.windows == 2
    assert notes == ["'made up' fills only 2 windows of 16 tokens, not 9; using all"]


def broken(factor):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    return model


def test_a_broken_model_has_an_infinite_perplexity():
    assert perplexity(broken(1e6), make_tokenizer(), make_text(make_ids(32)), seq_len=32).perplexity == math.inf


def test_a_loss_that_is_not_finite_is_refused_with_its_window_and_what_helps():
    text = make_text([*make_ids(32), 7, *[8] * 31])
    with pytest.raises(DataError, match="window 1 of 2 of 'made up' is nan, so there is no perplexity; use a model"):
        perplexity(broken(math.nan), make_tokenizer(), text, seq_len=32)
    model = make_model(dtype=torch.float16)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = 65504.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(3000)
    with pytest.raises(DataError, match=r"window 2 of 2 .* is nan.*; use --dtype bfloat16 or float32"):
        perplexity(model, make_tokenizer(), text, seq_len=32)


@pytest.mark.parametrize(
    ("seq_len", "windows", "error", "message"),
    [
        (
            64,
            None,
            DataError,
            "one window needs 64 tokens, but 'made up' has only 40; pass a shorter --seq-len",
        ),
        (4096, None, ConfigError, "--seq-len 4096 is more than the model's 2048 positions"),
        (16, 0, ConfigError, "needs at least 1 window, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(seq_len, windows, error, message):
    with pytest.raises(error, match=message):
        perplexity(make_model(), make_tokenizer(), make_text(make_ids(40)), seq_len=seq_len, windows=windows)

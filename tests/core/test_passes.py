"""A model whose own forward or backward pass fails: one sentence that names the model, the module and a remedy."""

import pytest
import torch
from _checkpoints import save_text, save_tokenizer
from _modes import batches, start
from transformers import AutoModelForCausalLM, GitConfig, GitForCausalLM, ReformerConfig, ReformerModelWithLMHead
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaModel

from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError
from unipruning_core.models.passes import pass_errors
from unipruning_core.search.modes import MODES
from unipruning_cpu.backend import CpuBackend

SIZES = {"vocab_size": 48, "hidden_size": 24, "num_attention_heads": 2}
SEARCHES = [("search", "--mode", mode, "--samples", "2") for mode in MODES]


class FailsBackward(torch.autograd.Function):
    """The identity, until its gradient is needed."""

    @staticmethod
    def forward(context, hidden):
        return hidden.clone()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("no gradient here.\nAnd more.")


def failing(self, *_, **__):
    raise RuntimeError("sides differ.\nAnd more.")


@pytest.fixture
def command(home, tmp_path):
    """The words of a command that runs the model forward."""

    def words(name, *options):
        shared = [str(home / "model"), "--data", str(home / "text.txt"), "--seq-len", "16", *options]
        out = [] if name == "perplexity" else ["--out", str(tmp_path / "out")]
        sparsity = ["--sparsity", "50%", "--samples", "2"] if name == "compare-sparsegpt" else []
        return [name, *shared, *out, *sparsity]

    return words


@pytest.mark.parametrize("words", [*SEARCHES, ("perplexity",), ("compare-sparsegpt",)], ids=" ".join)
def test_a_forward_that_fails_is_one_sentence_that_names_the_module(words, command, refused, monkeypatch, home):
    monkeypatch.setattr(LlamaMLP, "forward", failing)
    error = refused(*command(*words))
    assert f"model {str(home / 'model')!r} failed in 'model.layers.0.mlp' (LlamaMLP): sides differ; " in error
    assert "pass a shorter --seq-len" in error


@pytest.mark.parametrize("recomputed", ["on", "off"])
@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_a_backward_pass_that_fails_is_one_sentence(mode, recomputed, command, refused, monkeypatch):
    own = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, hidden: own(self, FailsBackward.apply(hidden)))
    options = ("--samples", "2", "--checkpoint-activations", recomputed)
    error = refused(*command("search", "--mode", mode, *options))
    assert " failed in its backward pass: no gradient here; " in error


def test_a_forward_that_fails_only_when_it_is_computed_again_names_the_module(command, refused, monkeypatch):
    own, calls = LlamaAttention.forward, []

    def forward(self, *words, **named):
        calls.append(self)
        return failing(self) if len(calls) > 2 else own(self, *words, **named)

    monkeypatch.setattr(LlamaAttention, "forward", forward)
    error = refused(*command("search", "--samples", "1", "--checkpoint-activations", "on"))
    assert " failed in 'model.layers.1.self_attn' (LlamaAttention): sides differ; " in error


def test_what_our_own_hooks_raise_is_not_said_to_be_the_models(folder, monkeypatch):
    search = start(folder)
    monkeypatch.setattr(CpuBackend, "mask_weight", failing)
    with pytest.raises(RuntimeError, match="sides differ"), pass_errors(search.model):
        search.step(0, batches()[0])


def test_a_model_in_memory_is_named_by_its_class(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.name_or_path = ""
    wanted = f"^model '{type(model).__name__}' failed in '{model.base_model_prefix}' "
    with pytest.raises(CheckpointError, match=wanted), pass_errors(model):
        model(input_ids=None)


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_a_loss_without_a_gradient_is_refused_with_the_remedy(mode, command, refused, monkeypatch):
    monkeypatch.setattr(LlamaModel, "forward", torch.no_grad()(LlamaModel.forward))
    error = refused(*command("search", "--mode", mode, "--samples", "2"))
    assert "model' has no gradient for any target layer" in error
    assert error.endswith("; use --mode frozen")


def saved(folder, model):
    model.save_pretrained(folder)
    save_tokenizer(folder)
    save_text(folder / "text.txt")
    return [str(folder), "--data", str(folder / "text.txt"), "--samples", "2", "--seq-len", "16"]


def test_a_model_that_can_be_searched_only_without_gradients_is_searched_so(tmp_path, refused):
    attention = {"attention_head_size": 12, "attn_layers": ["local", "local"], "local_attn_chunk_length": 8}
    config = ReformerConfig(
        **SIZES, **attention, feed_forward_size=32, axial_pos_embds=False, is_decoder=True, max_position_embeddings=64
    )
    words = saved(tmp_path / "model", ReformerModelWithLMHead(config))
    assert "has no gradient for any target layer" in refused("search", *words, "--out", tmp_path / "out")
    assert main(["search", *words, "--mode", "frozen", "--out", str(tmp_path / "out")]) == 0


def test_a_model_whose_own_loss_counts_tokens_of_images_is_searched_by_ours(tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(
        **SIZES, intermediate_size=32, num_hidden_layers=2, vision_config=vision | {"image_size": 28, "patch_size": 14}
    )
    words = saved(tmp_path / "model", GitForCausalLM(config))
    assert main(["search", *words, "--out", str(tmp_path / "out")]) == 0

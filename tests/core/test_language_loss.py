"""The loss in chunks of tokens against the model's own, for models of many kinds."""

from functools import partial

import pytest
import torch
from _modes import batches, start
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from unipruning_core.errors import CheckpointError
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.progress import Progress
from unipruning_core.search import language_loss
from unipruning_core.search.language_loss import PREFIX, LanguageLoss
from unipruning_core.search.loop import run_samples

VOCABULARY, TOKENS, CHUNK = 96, 50, 7
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
KINDS = {
    "llama": LLAMA,
    "mistral": LLAMA | {"num_key_value_heads": 2},
    "qwen2": LLAMA | {"num_key_value_heads": 2},
    "qwen3": LLAMA | {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.1},
    "gemma3_text": LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.1},
    "cohere": LLAMA | {"logit_scale": 0.25},
    "granite": LLAMA | {"logits_scaling": 4.0},
    "mixtral": LLAMA | {"num_key_value_heads": 2, "num_local_experts": 4},
    "phi": LLAMA,
    "gpt_neox": LLAMA,
    "falcon": LLAMA,
    "gpt2": GPT,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    # the decoder of OPT is a part of its base model; here it also widens the hidden states for the head
    "opt": LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    # has a dense layer of its own between decoder and head
    "bert": LLAMA | {"is_decoder": True},
}
OTHER_KINDS = {"xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}}  # with other losses


def built(kind, **changes):
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **COMMON | (KINDS | OTHER_KINDS)[kind] | changes)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in decoder_blocks(model)[1].parameters():
        parameter.requires_grad_(parameter.dim() == 2)
    return model


def tokens(count=TOKENS):
    return torch.randint(VOCABULARY, (1, count), generator=torch.Generator().manual_seed(4))


def with_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def chunks(monkeypatch):
    """Let a chunk be of CHUNK tokens."""
    monkeypatch.setattr(language_loss, "LOGITS", VOCABULARY * CHUNK)


@pytest.fixture
def to_the_head():
    """The numbers of tokens that meet the head of a model at a time."""
    seen = []

    def watched(model):
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
        return seen

    return watched


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_give_the_loss_and_the_gradients_of_the_model_itself(kind, chunks, to_the_head):
    model, ids, notes = built(kind), tokens(), []
    expected, expected_gradients = with_gradients(model, model(input_ids=ids, labels=ids, use_cache=False).loss)
    loss = LanguageLoss(model)
    loss.compare(ids, notes.append)
    seen = to_the_head(model)
    actual, gradients = with_gradients(model, loss(ids))
    assert not notes
    assert seen == [1, *[CHUNK] * (TOKENS // CHUNK)]
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)
    assert len(gradients) == len(expected_gradients) > 0
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunks_suit_half_precision(dtype, chunks):
    model, ids, notes = built("llama").to(dtype), tokens(), []
    expected, expected_gradients = with_gradients(model, model(input_ids=ids, labels=ids, use_cache=False).loss)
    loss = LanguageLoss(model)
    loss.compare(ids, notes.append)
    actual, gradients = with_gradients(model, loss(ids))
    assert not notes
    assert float(actual) == pytest.approx(float(expected), rel=1e-4)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        atol = 4 * torch.finfo(dtype).eps * float(wanted.abs().max())
        torch.testing.assert_close(gradient, wanted, rtol=0.0, atol=atol)


def another_loss(own, logits, **given):
    """The usual loss and a term on the size of the logits."""
    return own(logits=logits, **given) + logits.float().square().mean()


@pytest.mark.parametrize("way", ["balance of experts", "permutations", "norm"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "chunks"])
def test_a_loss_of_the_models_own_is_left_aside(way, whole, request):
    kinds = {"balance of experts": ("mixtral", {"output_router_logits": True}), "permutations": ("xlnet", {})}
    kind, changes = kinds.get(way, ("llama", {}))
    model, ids = built(kind, **changes), tokens()
    if way == "norm":
        model.loss_function = partial(another_loss, model.loss_function)
    if not whole:
        request.getfixturevalue("chunks")
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    expected, expected_gradients = with_gradients(model, cross_entropy(logits, ids[0, 1:]))
    own = model(input_ids=ids, labels=ids, use_cache=False).loss.detach()
    assert float(own) != pytest.approx(float(expected), rel=1e-4)
    loss = LanguageLoss(model)
    loss.compare(ids, pytest.fail)
    actual, gradients = with_gradients(model, loss(ids))
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_the_loss_of_a_short_sample_is_that_of_transformers_to_the_last_bit():
    model, ids = built("llama"), tokens()
    expected, expected_gradients = with_gradients(model, model(input_ids=ids, labels=ids, use_cache=False).loss)
    actual, gradients = with_gradients(model, LanguageLoss(model)(ids))
    assert torch.equal(actual, expected)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected_gradients, strict=True))


def mixing(head, hidden):
    """A head whose logits of a token depend on all tokens that it is given."""
    return head(hidden + hidden.mean(1, keepdim=True))


def for_whole_samples(forward, input_ids, **given):
    """A forward that does not take a chunk of a sample."""
    if input_ids.shape[1] < PREFIX:
        raise ValueError("too short")
    return forward(input_ids=input_ids, **given)


@pytest.mark.parametrize("way", ["mixing", "whole samples"])
def test_a_model_that_cannot_be_run_in_chunks_is_run_as_it_is_and_says_so_once(way, chunks):
    model = built("llama")
    if way == "mixing":
        model.lm_head.forward = partial(mixing, model.lm_head.forward)
    else:
        model.forward = partial(for_whole_samples, model.forward)
    ids, notes = tokens(), []
    loss = LanguageLoss(model)
    for _ in range(2):
        loss.compare(ids, notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("the logits of a sample are in memory all at once, since ")
    expected, expected_gradients = with_gradients(model, model(input_ids=ids, labels=ids, use_cache=False).loss)
    actual, gradients = with_gradients(model, loss(ids))
    assert torch.equal(actual, expected)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected_gradients, strict=True))


@pytest.mark.parametrize("cut", [slice(1, None), slice(0)], ids=["one fewer", "none"])
def test_logits_that_are_not_one_row_a_token_are_refused(cut):
    model = built("llama")
    model.lm_head.register_forward_hook(lambda _, __, logits: logits[:, cut])
    with pytest.raises(CheckpointError, match=r"'LlamaForCausalLM' gives logits for \d+ tokens, not 50, "):
        LanguageLoss(model)(tokens())


def test_the_comparison_runs_a_few_tokens_once_and_none_for_samples_of_one_chunk(chunks):
    model = built("llama")
    loss, seen = LanguageLoss(model), []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    for count in (CHUNK, TOKENS, TOKENS):
        loss.compare(tokens(count), pytest.fail)
    assert seen == [PREFIX]


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_a_search_in_chunks_takes_the_same_steps(mode, folder, monkeypatch):
    found = []
    for logits in (1 << 25, 48 * 5):
        monkeypatch.setattr(language_loss, "LOGITS", logits)
        search = start(folder, mode=mode)
        losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
        found.append((losses, [outcome.dual for outcome in search.outcomes()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_the_user_of_a_search_reads_why_its_logits_are_whole(folder, monkeypatch):
    monkeypatch.setattr(language_loss, "LOGITS", 48 * 5)
    monkeypatch.setattr(LanguageLoss, "_agree", lambda *_: False)
    notes, progress = [], Progress()
    progress.note = notes.append
    run_samples(start(folder, mode="drift"), batches(), progress)
    assert [note for note in notes if "logits" in note] == notes
    assert len(notes) == 1

"""Activations computed again in the backward pass: the same results, in less memory, where there is a use for it."""

import re

import pytest
import torch
from _modes import SAMPLES, batches, start
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import ConfigError
from unipruning_core.jobs import in_memory
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.recompute import recomputed
from unipruning_core.models.replaced_forward import replaced_forward
from unipruning_core.progress import Progress
from unipruning_core.search import activation_memory, loop
from unipruning_core.search.activation_memory import activation_bytes, decide_recomputation
from unipruning_core.tools.plan.trace import LiveMemory
from unipruning_cpu.backend import CpuBackend

SEARCHES = [
    {"mode": "feedback"},
    {"mode": "feedback", "learning_rate": 0.0},
    {"mode": "feedback", "pattern": "2:4"},
    {"mode": "drift"},
    {"mode": "drift", "max_grad_norm": 0.0},
    {"mode": "coupled"},
]


def searched(folder, *, recomputes, **settings):
    """Return losses, state and scores of a search, and how often it ran the first layer and read an input."""
    search = start(folder, **settings)
    search.recomputes = recomputes
    runs = []
    search.layers[0].module.register_forward_pre_hook(lambda *_: runs.append("layer"))
    losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
    state = {name: tensor.clone() for name, tensor in search.tensors().items()}
    return losses, state, [outcome.dual for outcome in search.outcomes()], len(runs)


@pytest.fixture
def inputs_read(monkeypatch):
    """The inputs that searches have added up."""
    read, add = [], CpuBackend.accumulate_sumsq
    monkeypatch.setattr(CpuBackend, "accumulate_sumsq", lambda self, x, sumsq: (read.append(1), add(self, x, sumsq))[1])
    return read


@pytest.mark.parametrize("settings", SEARCHES, ids=str)
def test_a_search_ends_with_the_same_bits_and_reads_each_input_once(folder, settings, inputs_read):
    losses, state, scores, runs = searched(folder, recomputes=False, **settings)
    once = len(inputs_read)
    again_losses, again_state, again_scores, again_runs = searched(folder, recomputes=True, **settings)
    assert len(inputs_read) == 2 * once > 0
    assert again_runs == 2 * runs == 2 * len(batches())
    assert again_losses == losses
    assert all(torch.equal(again_state[name], tensor) for name, tensor in state.items())
    assert all(torch.equal(*pair) for pair in zip(again_scores, scores, strict=True))


def test_masked_weights_are_taken_out_before_gradients_are_used(folder):
    search = start(folder, mode="feedback")
    search.recomputes = True
    before = [(layer.parameter.data_ptr(), layer.weight.clone()) for layer in search.layers]
    places = []
    for layer in search.layers:
        layer.parameter.register_post_accumulate_grad_hook(lambda p: places.append(p.data_ptr()))
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
    assert set(places) == {place for place, _ in before}
    assert all(torch.equal(layer.weight, weight) for layer, (_, weight) in zip(search.layers, before, strict=True))


def built(kind, **sizes):
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, vocab_size=48, bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in decoder_blocks(model)[1].parameters():
        parameter.requires_grad_(parameter.dim() == 2)
    return model


def test_dropout_stays_off():
    # a block of OPT asks whether it is in training itself
    sizes = {"hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    model, ids = built("opt", dropout=0.5, word_embed_proj_dim=24, **sizes), batches()[0]
    found = []
    for blocks in ((), decoder_blocks(model)[1]):
        model.zero_grad()
        with recomputed(blocks):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        found.append((loss, [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True))


LLAMA = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 8}


def peak(model, tokens, blocks=()):
    """Return the bytes of the activations of one sample at their peak; gradients of weights are dropped at once."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    memory = LiveMemory(list(model.parameters()))
    with memory:
        with recomputed(blocks):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    return memory.peak


def test_only_the_inputs_of_blocks_and_one_block_in_full_are_held():
    model, tokens = built("llama", **LLAMA), 128
    whole = peak(model, tokens)
    inputs = LLAMA["num_hidden_layers"] * tokens * LLAMA["hidden_size"] * 4
    assert peak(model, tokens, decoder_blocks(model)[1]) <= inputs + 2 * whole / LLAMA["num_hidden_layers"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", LLAMA),
        ("gemma2", LLAMA | {"num_key_value_heads": 1, "head_dim": 16, "attn_implementation": "eager"}),
        ("gpt2", {"n_embd": 64, "n_layer": 8, "n_head": 4}),
        ("mixtral", LLAMA | {"num_key_value_heads": 4, "num_local_experts": 8}),
    ],
)
@pytest.mark.parametrize("tokens", [48, 512])
def test_activations_are_estimated_within_a_tenth(kind, sizes, dtype, tokens):
    model = built(kind, **sizes).to(dtype)
    ids = torch.arange(tokens)[None] % 48
    assert activation_bytes(model, ids) == pytest.approx(peak(model, tokens), rel=0.1)


def test_a_forward_that_fails_is_put_back(folder):
    search = start(folder, mode="drift")
    search.recomputes = True
    with pytest.raises(IndexError):
        search.step(0, torch.tensor([[10_000]]))
    assert not any("forward" in vars(block) for block in search.blocks)


def test_a_forward_of_the_module_s_own_is_put_back():
    module = torch.nn.Identity()
    module.forward = own = lambda x: x + 1
    with replaced_forward(module, lambda x: x + 2):
        assert module(1) == 3
    assert module.forward is own


@pytest.mark.parametrize(
    ("choice", "room", "mode", "wanted"),
    [
        ("auto", 1.0, "feedback", False),
        ("auto", 0.99, "feedback", True),
        ("auto", 0.99, "frozen", False),
        ("auto", None, "feedback", False),
        ("on", 9.0, "feedback", True),
        ("off", 0.1, "feedback", False),
    ],
)
def test_activations_are_computed_again_where_they_do_not_fit_or_on_request(folder, choice, room, mode, wanted):
    search, samples = start(folder, mode=mode), Calibration(batches(), SAMPLES * 16, "text", 0)
    progress, notes = Progress(), []
    progress.note = notes.append
    needed = activation_bytes(search.model, batches()[0]) if mode == "feedback" else 1
    assert decide_recomputation(choice, search, samples, room and int(room * needed), progress) == wanted
    if choice == "auto" and wanted:
        assert re.fullmatch(r"the backward pass computes .* GiB is free .*; --checkpoint-activations off .*", notes[0])
    assert len(notes) == (choice == "auto" and wanted)


@pytest.fixture
def given(monkeypatch):
    """Whether each search computes activations again, where they never fit."""
    seen = []

    def run_samples(run, *args, **kwargs):
        seen.append(run.recomputes)
        return real(run, *args, **kwargs)

    real = loop.run_samples
    monkeypatch.setattr(loop, "run_samples", run_samples)
    monkeypatch.setattr(in_memory, "run_samples", run_samples)
    monkeypatch.setattr(activation_memory, "activation_bytes", lambda *_: 1 << 60)
    return seen


@pytest.mark.parametrize(("choice", "wanted"), [([], True), (["on"], True), (["off"], False)])
def test_the_command_passes_its_choice_on(search_words, tmp_path, given, choice, wanted):
    flag = ["--checkpoint-activations", *choice] if choice else []
    assert main(["search", *search_words, "--mode", "drift", "--out", str(tmp_path / "run"), *flag]) == 0
    assert given == [wanted]


@pytest.mark.parametrize(("options", "wanted"), [({}, True), ({"checkpoint_activations": "off"}, False)])
def test_python_passes_its_choice_on(home, tmp_path, given, options, wanted):
    common = {
        "data": str(home / "text.txt"),
        "samples": 2,
        "seq_len": 16,
        "mode": "drift",
        "progress": False,
        **options,
    }
    unipruning.search(str(home / "model"), out=tmp_path / "run", **common)
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    unipruning.search(AutoModelForCausalLM.from_pretrained(home / "model"), tokenizer, **common)
    assert given == [wanted, wanted]


def test_the_choice_leaves_no_trace_in_the_run_folder_so_that_a_search_can_resume_with_another(search_words, tmp_path):
    for choice in ("on", "off"):
        out = str(tmp_path / choice)
        words = ["search", *search_words, "--mode", "drift", "--out", out, "--checkpoint-activations", choice]
        assert main(words) == 0
    files = [path.name for path in (tmp_path / "on").iterdir()]
    assert all((tmp_path / "on" / name).read_bytes() == (tmp_path / "off" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("on", "is for the modes with a backward pass (feedback, drift, coupled); omit it with --mode frozen"),
        ("always", "must be one of auto, on, off, not 'always'"),
    ],
)
def test_a_choice_without_a_use_is_refused_before_anything_is_read(home, tmp_path, choice, says):
    options = {"data": "nowhere.txt", "mode": "frozen", "checkpoint_activations": choice, "progress": False}
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    for start_search in (
        lambda: unipruning.search("nowhere", out=tmp_path / "run", **options),
        lambda: unipruning.search(model, object(), **options),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            start_search()

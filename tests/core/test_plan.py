"""Plans against the checkpoints, searches and models they speak of."""

from __future__ import annotations

import json

import pytest
import torch
from _checkpoints import save_gpt2, save_llama
from _modes import chosen
from transformers import AutoModelForCausalLM, Gemma3Config, MixtralConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from unipruning_core.backend import OPERATIONS
from unipruning_core.cli.main import main
from unipruning_core.models.loading import ModelChoice, build_outline
from unipruning_core.models.named import built_in_configs
from unipruning_core.models.outline import load_config, outline
from unipruning_core.models.size import ModelSize
from unipruning_core.models.targets import find_targets
from unipruning_core.registry import Catalogue
from unipruning_core.search.language_loss import LanguageLoss
from unipruning_core.search.memory import held_bytes
from unipruning_core.search.modes import MODES
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.bench.cases import Case
from unipruning_core.tools.plan.layout import Layout
from unipruning_core.tools.plan.plan import Machine, left_to_reference, plan_search, pruned_weights
from unipruning_core.tools.plan.trace import LiveMemory, by_formula, trace_sample

PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "qwen2.5-7b": 7_615_616_512,
    "smollm2-135m": 134_515_008,
    "qwen2.5-14b": 14_770_033_664,
    # its index of tensors gives 16 061 784 576 bytes: two a parameter, and 34 * 64 rotary frequencies in fp32
    "openpangu-7b": (16_061_784_576 - 34 * 64 * 4) // 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_built_in_models_have_as_many_parameters_as_the_published_ones(name):
    assert outline(name).parameters == PARAMETERS[name]


def test_every_built_in_name_is_a_model_with_seven_targets_a_block():
    for name in built_in_configs():
        assert len(outline(name.upper()).targets) == 7 * load_config(name).num_hidden_layers


@pytest.mark.parametrize("save", [save_llama, save_gpt2])
def test_targets_from_the_config_are_those_of_the_checkpoint(save, tmp_path):
    checkpoint = Checkpoint.open(save(tmp_path / "model"))
    shapes = build_outline(load_config(str(tmp_path / "model")), ModelChoice("model"))
    layers, left_out = find_targets(shapes, checkpoint)
    wanted = [layer.target for layer in layers]
    found = outline(str(tmp_path / "model" / "config.json"))
    assert {(target.shape, target.transposed) for target in found.targets} == {
        (target.shape, target.transposed) for target in wanted
    }
    assert len(found.targets) == len(wanted)
    assert len(found.left_out) == len(left_out)
    assert found.size == ModelSize.of(shapes, layers)
    assert sum(found.shapes().values()) == len(wanted)


UNCLIPPED = {"mode": "drift", "max_grad_norm": 0.0}


@pytest.mark.parametrize("settings", [*({"mode": mode} for mode in MODES), UNCLIPPED], ids=str)
def test_memory_is_what_a_search_on_the_checkpoint_is_checked_against(folder, settings):
    found, settings = outline(str(folder)), chosen(**settings)
    plan = plan_search(found, settings, backend="cpu", samples=3, seq_len=8)
    checkpoint = Checkpoint.open(folder)
    traced = [size for part, size in plan.memory.items() if part.endswith(" (traced)")]
    assert plan.held - sum(traced) == held_bytes(checkpoint, found.targets, settings, torch.bfloat16)
    assert all(traced)
    assert plan.layout == Layout()


def test_the_traced_activations_are_those_of_a_real_forward_and_backward(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    names = {target.name for target in outline(str(folder)).targets}
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    ids = torch.zeros(1, 16, dtype=torch.int64)
    real = LiveMemory(list(model.parameters()))
    with real:
        LanguageLoss(model)(ids).backward()
    traced = trace_sample(outline(str(folder)), 16, backward=True).activations
    # without values the model cannot see that it needs no explicit causal mask
    mask = 16 * 16 * 4
    assert real.peak <= traced <= real.peak + mask


def test_the_traced_operations_are_two_a_weight_and_token_and_those_of_attention(folder):
    found, tokens = outline(str(folder)), 32
    forward = trace_sample(found, tokens, backward=False).flops
    attention = 2 * 2 * 2 * tokens * tokens * 2 * 8  # layers, two products, heads, head size
    assert forward == 2 * found.weights * tokens + attention
    # backward: twice for the targets, 2.5 times for attention; the head gives its input's gradient alone, and nothing
    # before the first query, key and value asks for theirs
    head, first = 2 * 24 * 48 * tokens, 2 * 24 * (16 + 8 + 8) * tokens
    wanted = 6 * found.weights * tokens + 3.5 * attention + 2 * head - first
    assert trace_sample(found, tokens, backward=True).flops == wanted


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_a_forward_that_cannot_be_traced_is_planned_by_formula_and_said(folder, tmp_path, monkeypatch, capfd, mode):
    found = outline(str(folder))
    sides = [sum(target.shape) for target in found.targets]

    def failing(*_, **__):
        return torch.zeros(3) @ torch.zeros(5)  # an error that the tracer logs with its traceback

    monkeypatch.setattr(LlamaRMSNorm, "forward", failing)
    path = tmp_path / "plan.json"
    assert main(["plan", str(folder), "--seq-len", "16", "--mode", mode, "--json", str(path)]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    written = json.loads(path.read_text())
    assert f"  {written['untraced']}\n" in printed.out
    assert written["untraced"].startswith(f"the forward of {str(folder)!r} cannot be traced without weights: ")
    assert written["untraced"].endswith("; its operations and activations are those of a formula")
    logits = 4 * 4 * 16 * 48
    held = {"feedback": 2 * 16 * sum(sides) + logits, "frozen": 2 * 16 * max(sides)}[mode]
    assert sum(size for part, size in written["memory"].items() if part.endswith(" (by formula)")) == held
    assert written["model_flops"] == {"feedback": 6, "frozen": 2}[mode] * 16 * found.parameters


def test_the_formula_is_near_a_trace(folder):
    found = outline(str(folder))
    for backward in (True, False):
        traced, formula = trace_sample(found, 32, backward=backward), by_formula(found, 32, backward=backward)
        assert 0.5 < formula.flops / traced.flops < 2
        assert 0.2 < formula.activations / traced.activations < 5


def test_a_model_that_asks_for_values_while_it_is_built_is_traced(tmp_path, capfd):
    text = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={"vocab_size": 48, "num_key_value_heads": 1, **text},
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    config.save_pretrained(tmp_path)
    assert main(["plan", str(tmp_path), "--seq-len", "16"]) == 0
    printed = capfd.readouterr()
    assert "activations (traced)" in printed.out
    assert printed.err == ""


def test_experts_in_float32_are_planned_without_a_traceback(tmp_path, capfd):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    MixtralConfig(vocab_size=48, num_local_experts=4, num_key_value_heads=1, **sizes).save_pretrained(tmp_path)
    assert main(["plan", str(tmp_path), "--seq-len", "16", "--dtype", "float32"]) == 0
    printed = capfd.readouterr()
    assert "activations (" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("settings", "bytes_a_weight"),
    [
        ({"mode": "frozen", "metric": "ria"}, 2 + 10),
        ({"mode": "coupled", "metric": "ria"}, 2 + 10 + 14),
        ({"mode": "drift", "metric": "ria"}, 2 + 10 + 2 + 18),
        ({"mode": "drift", "metric": "ria", "max_grad_norm": 0.0}, 2 + 10 + 18),
        ({"mode": "drift", "metric": "ria", "prox_strength": 0.2}, 2 + 10 + 2 + 18 + 4),
        ({"mode": "feedback"}, (6 + 2) + (4 + 2) + (6 + 4) + 2 / 8),
        ({"mode": "feedback", "learning_rate": 0.0}, (4 + 2) + (2 + 2) + (4 + 2) + 2 / 8),
    ],
    ids=str,
)
def test_a_step_moves_at_least_what_its_operations_read_and_write(folder, settings, bytes_a_weight):
    plan = plan_search(outline(str(folder)), chosen(**settings), backend=None, samples=4, seq_len=8)
    assert sum(plan.step_bytes.values()) == bytes_a_weight
    assert plan.steps == (1 if settings.get("mode") == "frozen" else 4)
    assert plan.seconds is None


def test_a_drift_step_is_planned_with_the_bytes_that_the_benchmark_counts(folder):
    found = outline(str(folder))
    plan = plan_search(found, chosen(mode="drift"), backend=None, samples=4, seq_len=8)
    counted = sum(
        layers * rows * cols * Case("step drift", rows, cols, torch.bfloat16).least_bytes
        for (rows, cols), layers in found.shapes().items()
    )
    assert sum(plan.step_bytes.values()) == pytest.approx(counted / found.weights)


def test_the_predicted_time_is_the_roofline(folder):
    words = {"backend": "cpu", "samples": 10, "seq_len": 8}
    found, settings = outline(str(folder)), chosen(mode="drift", metric="ria")
    plan = plan_search(found, settings, **words, machine=Machine(bandwidth=1e6, flops=1e15))
    assert plan.seconds["forward and backward"] == pytest.approx(10 * plan.model_bytes / 1e6)
    assert plan.seconds["steps"] == pytest.approx(10 * found.weights * 32 / 1e6)
    plan = plan_search(found, settings, **words, machine=Machine(bandwidth=1e15, flops=1e6))
    assert plan.seconds["all"] == pytest.approx(10 * plan.model_flops / 1e6, rel=1e-3)


@pytest.mark.parametrize(("text", "share"), [("60%", 0.6), ("60%/row", 0.6), ("60%/global", 0.6), ("2:4", 0.5)])
def test_pruned_weights_are_those_of_the_sparsity(folder, text, share):
    found = outline(str(folder))
    assert pruned_weights(found.targets, parse_sparsity(text), found.parameters) == pytest.approx(
        share * found.weights, rel=0.02
    )  # 24 inputs round


def test_the_operations_left_to_the_reference_are_those_the_backend_does_not_declare():
    assert left_to_reference(None) == []
    assert set(left_to_reference("cpu")) == set(OPERATIONS) - Catalogue().specs["cpu"].optimised


def test_the_command_prints_a_plan_and_writes_it(folder, tmp_path, capsys):
    words = ["plan", str(folder), "--backend", "cpu", "--sparsity", "2:4", "--seq-len", "16", "--bandwidth", "10"]
    assert main([*words, "--flops", "1", "--json", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    assert "peak memory" in printed
    assert "predicted, at best" in printed
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["schema"] == "unipruning-plan-2"
    assert written["pruned"]["2:4"] * 2 == written["weights"]
    assert main(words[:2]) == 0
    assert "no time is predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["./nowhere/config.json"], "has no usable config"),
        (["llama-2-7b", "--sparsity", "7:13"], "needs a multiple of 13 inputs"),
        (["llama-2-7b", "--mode", "fast"], "--mode must be one of"),
        (["llama-2-7b", "--dtype", "int8"], "--dtype must be one of"),
        (["llama-2-7b", "--backend", "abacus"], "no backend is called 'abacus'"),
        (["llama-2-7b", "--samples", "0"], "--samples must be 1 or more, not 0"),
        (["llama-2-7b", "--bandwidth", "-1"], "--bandwidth must be from 1e-09 to 1e+21 GB/s, not -1"),
        (["llama-2-7b", "--seq-len", "100000"], "--seq-len 100000 is more than"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_plan_that_cannot_be_made_costs_one_sentence(capsys, words, says):
    assert main(["plan", *words]) == 2
    assert says in capsys.readouterr().err

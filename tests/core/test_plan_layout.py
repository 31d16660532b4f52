"""Plans over ranks and memories: what fits where, on paper, and the command that follows."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from _checkpoints import save_llama
from _modes import chosen
from transformers import AutoModelForCausalLM, LlamaConfig

from unipruning_core.cli.main import build_parser, main
from unipruning_core.errors import ConfigError
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.outline import outline
from unipruning_core.models.recompute import recomputed
from unipruning_core.search.language_loss import LanguageLoss
from unipruning_core.tools.plan.choose import choose
from unipruning_core.tools.plan.layout import Layout, Ranks
from unipruning_core.tools.plan.plan import Machine, plan_search
from unipruning_core.tools.plan.trace import LiveMemory, by_formula, trace_sample
from unipruning_core.tools.plan.units import units_of
from unipruning_core.tools.plan.wanted import Wanted

GIB = 2**30
TOKENS = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("model"))


def ranks_of(name, settings, *, trace=by_formula, seq_len=TOKENS):
    found = outline(str(name))
    cost = trace(found, seq_len, backward=settings.follows_loss)
    return Ranks(found, units_of(found, loss=settings.follows_loss), cost, settings, seq_len)


@pytest.fixture(scope="module")
def seven():
    return ranks_of("llama-2-7b", chosen(mode="feedback"), trace=trace_sample)


@pytest.fixture(scope="module")
def seventy():
    return ranks_of("llama-2-70b", chosen(mode="feedback", batch_size=8))


def test_seven_billion_weights_fit_a_card_of_24_gib_with_their_state_in_the_host(seven):
    layout = choose(seven, Wanted(seven.settings, ranks=1, memory=23 * GIB))
    assert layout == Layout(1, offload="cpu")
    rank = seven.rank(layout)
    assert rank.peak < 23 * GIB
    # W, v and U, of which W passes twice, v three times and U four times
    targets = sum(seven.sizes)
    assert rank.host == 6 * targets
    assert rank.copied == (2 * 2 + 3 * 2 + 4 * 2) * targets


def test_more_cards_come_before_the_host_and_activations_before_more_cards(seven):
    assert choose(seven, Wanted(seven.settings, memory=80 * GIB)) == Layout()
    assert choose(seven, Wanted(seven.settings, memory=40 * GIB)) == Layout(recomputes=True)
    assert choose(seven, Wanted(seven.settings, memory=24 * GIB)) == Layout(2, recomputes=True)
    assert choose(seven, Wanted(seven.settings, memory=6 * GIB)) == Layout(1, offload="cpu", recomputes=True)


@pytest.mark.parametrize("memory", [80, 64])
def test_seventy_billion_weights_fit_eight_cards_with_activations_computed_again(seventy, memory):
    wanted = Wanted(seventy.settings, memory=memory * GIB)
    assert choose(seventy, wanted) == Layout(8, recomputes=True)
    assert seventy.rank(Layout(8)).peak > 80 * GIB
    assert seventy.rank(Layout(4, recomputes=True)).peak > 80 * GIB


def test_a_search_that_fits_nowhere_costs_one_sentence_with_the_least_that_it_needs(seven):
    with pytest.raises(
        ConfigError, match=r"--device-memory 2\.0 GiB: it needs at least 2\.8 GiB a device, with 8 ranks"
    ):
        choose(seven, Wanted(seven.settings, memory=2 * GIB))


def test_a_rank_holds_its_part_and_a_block_and_sends_what_a_step_of_fsdp_sends(seven):
    ranks, weights = 4, seven.units.held
    alone, rank = seven.rank(Layout()), seven.rank(Layout(ranks))
    for part in ("weights", "second moment", "drift", "masks"):
        assert rank.parts[part] == pytest.approx(alone.parts[part] / ranks, rel=1e-6)
    assert rank.parts["blocks, gathered"] == 2 * 2 * seven.units.largest
    # everything once forward and once backward, and the gradients of the targets
    fsdp = 2 * (2 * weights + sum(seven.sizes)) * (ranks - 1) / ranks
    assert fsdp < rank.sent < 1.01 * fsdp
    assert alone.sent == alone.copied == alone.host == 0


def test_gloo_has_a_copy_of_a_block_that_arrives(folder):
    found, settings = outline(str(folder)), chosen(mode="frozen")
    words = found, units_of(found, loss=False), by_formula(found, 16, backward=False), settings, 16
    phases = [Ranks(*words, on_host=on_host).rank(Layout(2)).phases["the forward pass"] for on_host in (False, True)]
    blocks = [phase["blocks, gathered"] // (found.dtype.itemsize * words[1].largest) for phase in phases]
    assert blocks == [2, 3]


def test_frozen_holds_neither_state_nor_output_layer(folder):
    frozen = ranks_of(folder, chosen(mode="frozen"), seq_len=16)
    feedback = ranks_of(folder, chosen(mode="feedback"), seq_len=16)
    head = 48 * 24
    assert feedback.units.root - frozen.units.root == head
    rank = frozen.rank(Layout(2))
    assert "second moment" not in rank.parts
    assert rank.sent < feedback.rank(Layout(2)).sent / 2
    assert frozen.together(Layout(2)) == 2
    assert feedback.together(Layout(2)) == 1


def test_gradients_wait_where_a_rank_has_several_samples_of_a_step(folder):
    for batch, waits in ((2, False), (4, True)):
        search = ranks_of(folder, chosen(mode="feedback", batch_size=batch), seq_len=16)
        assert ("gradients of a step" in search.rank(Layout(2)).parts) is waits


def test_activations_computed_again_are_those_of_a_real_pass(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 8}
    config = LlamaConfig(vocab_size=48, dtype="float32", **sizes)
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    _, blocks = decoder_blocks(model)
    for module in blocks.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.requires_grad_(True)
            module.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    ids = torch.zeros(1, 64, dtype=torch.int64)
    real = LiveMemory(list(model.parameters()))
    with real, recomputed(blocks):
        LanguageLoss(model)(ids).backward()
    traced = trace_sample(outline(str(tmp_path)), 64, backward=True)
    assert traced.recomputing().activations == pytest.approx(real.peak, rel=0.15)
    assert traced.activations > 2 * real.peak
    assert traced.recomputing().flops == pytest.approx(4 / 3 * traced.flops, rel=0.1)


def test_the_time_is_that_of_the_slowest_part_of_the_machine(folder):
    found, settings = outline(str(folder)), chosen(mode="feedback", batch_size=2)
    words = {"backend": None, "samples": 8, "seq_len": 16}
    fast = {"bandwidth": 1e20, "flops": 1e20}
    wanted = Wanted(settings, ranks=2, offload="cpu")
    plan = plan_search(found, settings, **words, wanted=wanted, machine=Machine(**fast, network=1e6, pcie=1e20))
    assert plan.seconds["all"] == pytest.approx(4 * plan.sent / 1e6)  # of its samples, one of two each
    plan = plan_search(found, settings, **words, wanted=wanted, machine=Machine(**fast, network=1e20, pcie=1e6))
    assert plan.seconds["all"] == pytest.approx(4 * plan.copied / 1e6)
    plan = plan_search(found, settings, **words, wanted=wanted, machine=Machine(**fast))
    assert plan.seconds is None
    assert plan.missing == ["--network", "--pcie"]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], "unipruning search MODEL --out RUN --seq-len 16"),
        (
            ["--mode", "frozen", "--exclude", "*.1.*", "--samples", "8", "--ranks", "4"],
            "torchrun --nproc-per-node 4 -m unipruning_core search MODEL --out RUN --mode frozen --samples 8 "
            "--seq-len 16 --exclude '*.1.*'",
        ),
        (
            [
                "--ranks",
                "4",
                "--nodes",
                "2",
                "--offload",
                "disk",
                "--batch-size",
                "4",
                "--checkpoint-activations",
                "on",
            ],
            "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 2 -m unipruning_core "
            "search MODEL --out RUN --seq-len 16 --batch-size 4 --offload disk --checkpoint-activations on",
        ),
    ],
    ids=["alone", "frozen", "nodes"],
)
def test_the_command_that_is_printed_can_be_typed(folder, tmp_path, capsys, words, command):
    path = tmp_path / "plan.json"
    assert main(["plan", str(folder), "--seq-len", "16", *words, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    last = printed.splitlines()[-1]
    assert last == command.replace("MODEL", shlex.quote(str(folder)))
    typed = shlex.split(last)
    options = build_parser().parse_args(typed[typed.index("search") :])
    assert options.model == str(folder)
    assert options.seq_len == 16
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag not in ("--ranks", "--nodes"):
            found = getattr(options, flag[2:].replace("-", "_"))
            assert value in found if isinstance(found, list) else str(found) == value
    written = json.loads(path.read_text())
    assert written["layout"]["ranks"] == (4 if words else 1)
    assert ("sent by each rank" in printed) is bool(words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ranks", "0"], "--ranks must be from 1 to 65536, not 0"),
        (["--nodes", "-1"], "--nodes must be from 1 to 65536, not -1"),
        (["--ranks", "6", "--nodes", "4"], "--ranks 6 cannot be the same number on each of 4 nodes"),
        (["--mode", "drift", "--ranks", "2"], "the state of --mode drift is planned for one process"),
        (["--mode", "drift", "--offload", "disk"], "use --mode feedback or frozen with --offload"),
        (
            ["--backend", "cpu", "--offload", "cpu"],
            "--offload cpu moves nothing where the backend computes in the host's",
        ),
        (["--device-memory", "much"], "--device-memory must be a size such as 22GiB or 500MB, not 'much'"),
        (["--device-memory", "1MiB"], "the search does not fit --device-memory 0.0 GiB"),
        (["--network", "-1"], "--network must be from 1e-09 to 1e+21 GB/s, not -1"),
        (["--mode", "frozen", "--checkpoint-activations", "on"], "--checkpoint-activations on is for the modes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_layout_that_makes_no_sense_costs_one_sentence(capsys, words, says):
    assert main(["plan", "smollm2-135m", "--seq-len", "16", *words]) == 2
    assert says in capsys.readouterr().err

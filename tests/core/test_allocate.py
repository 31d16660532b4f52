"""Budgets made from a search, against plain transcriptions of what they are defined to be."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil, floor

import pytest
import torch
from _checkpoints import save_gpt2, save_llama, targets_of
from transformers import AutoModelForCausalLM

from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError, RunError
from unipruning_core.models.targets import find_targets
from unipruning_core.projection.allocate import blocks_of, fisher_rows, outlier_ratios, owl, owl_ratios, row_budgets
from unipruning_core.search.base import Outcome
from unipruning_core.search.modes.frozen import FrozenSettings
from unipruning_core.search.run_folder import Run, write_run
from unipruning_core.sparsity.forms import KeptRows, kept_weights
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
HALF, SIXTY = Fraction(1, 2), Fraction(3, 5)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save = {"llama": lambda: save_llama(folder, layers=3), "gpt2": lambda: save_gpt2(folder)}
    return Checkpoint.open(save[request.param]())


def write(folder, checkpoint, settings, *, norms=True, spoil=lambda name, score: score):
    """A run folder of made-up scores and input norms, both far from even."""
    generator = torch.Generator().manual_seed(3)

    def outcomes():
        for target in targets_of(checkpoint):
            score = torch.randn(target.shape, generator=generator).square() * torch.rand(
                target.shape[0], 1, generator=generator
            )
            norm = torch.randn(target.shape[1], generator=generator).exp()
            yield Outcome(target, spoil(target.name, score), torch.tensor(0.0), 1, norm if norms else None)

    description = {
        "settings": settings,
        "scope": "matrix",
        "model": {"fingerprint": checkpoint.fingerprint()},
        "data": {"tokens": 1},
    }
    folder.mkdir()
    write_run(folder, targets_of(checkpoint), outcomes(), {**description, "backend": "cpu", "versions": {}})
    return Run.open(folder)


@pytest.fixture
def frozen(checkpoint, tmp_path):
    return write(tmp_path / "frozen", checkpoint, {"mode": "frozen"})


def transcribed_owl(checkpoint, norms, share, multiple, spread):
    """The steps of the paper and its experiments as a reader would write them, in float64."""
    scores = {}
    for target in targets_of(checkpoint):
        W = checkpoint.read(target.name).double()
        W = W.t() if target.transposed else W
        number = next(int(part) for part in target.name.split(".") if part.isdigit())
        scores.setdefault(number, []).append((W.abs() * norms[target.name].double()).flatten())
    ratios = torch.tensor(
        [float((multiple * A.mean() < A).double().mean()) for A in map(torch.cat, scores.values())], dtype=torch.float64
    )
    kept = (ratios - ratios.min()) * (1 / (ratios.max() - ratios.min()) * spread * 2)
    kept = kept - kept.mean() + (1 - share)
    return ratios.tolist(), (1 - kept).tolist()


@pytest.mark.parametrize(("share", "multiple", "spread"), [(0.6, 5.0, 0.08), (0.5, 3.0, 0.2), (0.8, 2.0, 0.05)])
def test_owl_divides_a_share_among_blocks_as_its_paper_does(checkpoint, frozen, share, multiple, spread):
    exact = Fraction(str(share))
    ratios, shares = transcribed_owl(checkpoint, frozen.input_norms, share, multiple, spread)
    found = outlier_ratios(checkpoint, frozen.input_norms, frozen.targets, BACKEND, multiple=multiple)
    assert list(map(float, found.values())) == ratios
    assert len(set(ratios)) > 1
    budget = owl(checkpoint, frozen, exact, BACKEND, multiple=multiple, spread=Fraction(str(spread)))
    assert [float(cut.ratio) for _, cut in budget.rules] == pytest.approx(shares, abs=1e-10)
    assert {cut.scope for _, cut in budget.rules} == {"row"}

    cuts, total = budget.cuts(frozen.targets), sum(r * c for r, c in (t.shape for t in frozen.targets))
    assert sum(kept_weights(cuts[t.name], t.shape) for t in frozen.targets) == round((1 - exact) * total)
    for block, pruned in zip(blocks_of(frozen.targets), shares, strict=True):
        for target in block.targets:
            assert isinstance(rows := cuts[target.name], KeptRows)
            assert max(rows.weights) - min(rows.weights) <= 1
            assert sum(rows.weights) == pytest.approx((1 - pruned) * target.shape[0] * target.shape[1], abs=1)


def test_shares_of_blocks_have_the_mean_and_the_width_that_were_asked_for():
    sizes = {"a": 100, "b": 300, "c": 100}
    ratios = {"a": Fraction(1, 100), "b": Fraction(3, 100), "c": Fraction(2, 100)}
    shares = owl_ratios(ratios, sizes, SIXTY, Fraction(1, 10))
    assert sum(shares[name] * size for name, size in sizes.items()) == SIXTY * 500
    assert max(shares.values()) - min(shares.values()) == Fraction(1, 5)
    assert shares["b"] < shares["c"] < shares["a"]
    assert set(owl_ratios(dict.fromkeys(sizes, HALF), sizes, SIXTY).values()) == {SIXTY}


@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(99, 100)])
def test_a_spread_that_leaves_no_room_is_refused(share):
    ratios = {"a": Fraction(1, 100), "b": Fraction(3, 100)}
    with pytest.raises(ConfigError, match=r"would prune blocks by .* to .*; pass a smaller --spread"):
        owl_ratios(ratios, {"a": 10, "b": 10}, share)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "model.layers.12"),
        ("h.0.attn.c_attn.weight", "h.0"),
        ("model.layers.3.mlp.experts.17.w1.weight", "model.layers.3"),
        ("layer1.0.fc2.weight", "layer1.0"),
    ],
)
def test_a_block_is_a_name_up_to_its_first_number(name, block):
    assert [found.name for found in blocks_of([Target(name, (2, 2))])] == [block]


def test_a_target_outside_all_blocks_is_named():
    with pytest.raises(CheckpointError, match=r"'head2\.weight' has no number in its name"):
        blocks_of([Target("head2.weight", (2, 2))])


def test_a_frozen_search_keeps_the_input_norms_of_all_samples(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    layers, _ = find_targets(model, checkpoint)
    search = FrozenSettings(metric="wanda").start(model, layers, BACKEND, 3)
    seen = {layer.name: [] for layer in layers}
    for layer in layers:
        layer.module.register_forward_pre_hook(lambda _, args, name=layer.name: seen[name].append(args[0].detach()))
    generator = torch.Generator().manual_seed(0)
    for sample in range(3):
        search.step(sample, torch.randint(48, (1, 5 + sample), generator=generator))
    for outcome in search.outcomes():
        x = torch.cat([x.flatten(0, -2) for x in seen[outcome.target.name]]).double()
        assert len(x) == 18
        torch.testing.assert_close(outcome.input_norm.double(), x.square().mean(0).sqrt(), rtol=1e-5, atol=1e-7)


def transcribed_rows(masses, total, low, high):
    """c by bisection in floating point, then largest remainders."""
    claims = masses.double().sqrt()
    claims = claims.clamp_min(float(claims.max()) * 2.0**-40)
    below, above = 0.0, high / float(claims.min()) + 1
    for _ in range(300):
        middle = (below + above) / 2
        below, above = (below, middle) if (middle * claims).clamp(low, high).sum() >= total else (middle, above)
    quotas = (above * claims).clamp(low, high)
    kept = (quotas + 1e-9).floor()
    order = (kept - quotas).round(decimals=7).argsort(stable=True)
    kept[order[: total - int(kept.sum())]] += 1
    return kept.int().tolist()


@pytest.mark.parametrize(
    ("share", "spread"), [(SIXTY, Fraction(8, 100)), (HALF, Fraction(3, 10)), (HALF, Fraction(1, 100))]
)
@pytest.mark.parametrize("seed", range(4))
def test_rows_keep_in_proportion_to_the_root_of_their_mass(seed, share, spread):
    masses = torch.randn(37, generator=torch.Generator().manual_seed(seed)).exp()
    total = round((1 - share) * 37 * 50)
    found = row_budgets(masses, total, 50, share, spread)
    low, high = floor((1 - share - spread) * 50), ceil((1 - share + spread) * 50)
    assert found == transcribed_rows(masses, total, low, high)
    assert sum(found) == total
    assert low <= min(found) <= max(found) <= high


def test_rows_of_no_mass_and_equal_rows_are_settled():
    assert row_budgets(torch.zeros(3), 10, 8, SIXTY) == [4, 3, 3]
    assert row_budgets(torch.tensor([0.0, 4.0, 1.0]), 24, 20, SIXTY, Fraction(3, 10)) == [2, 14, 8]


def test_fisher_rows_divide_each_matrix_by_the_squares_of_the_scores(checkpoint, tmp_path):
    run = write(tmp_path / "run", checkpoint, {"mode": "feedback", "local_exponent": 0.0})
    budget = fisher_rows(checkpoint, run, SIXTY, BACKEND, spread=Fraction(1, 5))
    cuts, total = budget.cuts(run.targets), sum(r * c for r, c in (t.shape for t in run.targets))
    assert sum(sum(cuts[t.name].weights) for t in run.targets) == round(Fraction(2, 5) * total)
    for target in run.targets:
        masses = run.score(target.name).square().sum(dim=1)
        kept = cuts[target.name].weights
        assert sum(kept) == pytest.approx(0.4 * target.shape[0] * target.shape[1], abs=1)
        assert list(kept) == row_budgets(masses, sum(kept), target.shape[1], SIXTY, Fraction(1, 5))
        assert kept[int(masses.argmax())] == max(kept)
        assert kept[int(masses.argmin())] == min(kept)


@pytest.mark.parametrize(
    ("scheme", "settings", "norms", "error", "fault"),
    [
        (owl, {"mode": "drift"}, False, RunError, "holds no input norms; search with '--mode frozen'"),
        (fisher_rows, {"mode": "frozen"}, True, RunError, "need a run whose scores are √F, .* mode 'frozen'"),
        (
            fisher_rows,
            {"mode": "feedback", "local_exponent": 1.0},
            False,
            RunError,
            "and local exponent 1.0; search",
        ),
    ],
)
def test_a_run_that_cannot_tell_is_refused(scheme, settings, norms, error, fault, checkpoint, tmp_path):
    run = write(tmp_path / "run", checkpoint, settings, norms=norms)
    with pytest.raises(error, match=fault):
        scheme(checkpoint, run, SIXTY, BACKEND)


@pytest.mark.parametrize("scheme", ["owl", "fisher"])
def test_the_command_writes_a_budget_that_projects_to_the_exact_figure(scheme, checkpoint, tmp_path, capsys):
    settings = {"mode": "feedback", "local_exponent": 0} if scheme == "fisher" else {"mode": "frozen"}
    run = write(tmp_path / "run", checkpoint, settings)
    words = [str(checkpoint.folder), str(run.folder), "--sparsity", "61%", "--out", str(tmp_path / "b.json")]
    assert main(["allocate", *words, "--scheme", scheme, "--outlier-multiple", "3"]) == 0
    assert "next: unipruning project" in capsys.readouterr().out
    project = ["project", *words[:2], "--sparsity", f"@{tmp_path / 'b.json'}", "--out", str(tmp_path / "out")]
    assert main(project) == 0
    report = json.loads((tmp_path / "out" / "unipruning.json").read_text())
    assert report["overall"]["kept"] == round(Fraction(39, 100) * report["overall"]["total"])
    assert report["sparsity"] == "@b.json"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "exists; choose another file"),
        (["--overwrite", "--spread", "x"], "--spread must be a number such as 0.08, not 'x'"),
        (["--overwrite", "--spread", "1.5"], "--spread must lie in [0, 1), not 1.5"),
        (["--overwrite", "--spread", "0.5"], "pass a smaller --spread"),
        (["--overwrite", "--outlier-multiple", "0"], "--outlier-multiple must be a positive number"),
        (
            ["--overwrite", "--sparsity", "2:4"],
            "must be a ratio of all weights together, such as 60%, not '2:4'",
        ),
    ],
)
def test_wrong_words_cost_one_sentence_and_leave_the_file(words, fault, checkpoint, frozen, tmp_path, capsys):
    (tmp_path / "b.json").write_text("mine")
    asked = ["allocate", str(checkpoint.folder), str(frozen.folder), "--scheme", "owl"]
    asked += [] if "--sparsity" in words else ["--sparsity", "60%"]
    assert main([*asked, "--out", str(tmp_path / "b.json"), *words]) == 2
    assert fault in capsys.readouterr().err
    assert (tmp_path / "b.json").read_text() == "mine"

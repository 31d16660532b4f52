"""Budgets of a sparsity for each matrix: exact figures, whole numbers, and files that do not fit."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from _checkpoints import FakeScores, content, save_gpt2, save_llama

from unipruning_core.backend import Backend
from unipruning_core.errors import ConfigError
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.sparsity.apportion import apportion
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Dense, Kept, KeptRows, SemiStructured, Unstructured, kept_weights
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

BACKEND = CpuBackend()


class ReferenceBackend(reference.Operations, Backend):
    """The contract's definition, as a new backend starts."""

    name, device_type = "reference", "cpu"


TARGETS = (
    Target("layers.0.up", (8, 12)),
    Target("layers.0.down", (12, 8)),
    Target("layers.1.up", (7, 12), transposed=True),
    Target("layers.10.up", (5, 20)),
)
TOTAL = sum(rows * columns for rows, columns in (target.shape for target in TARGETS))


def budget(sparsity, **more):
    return Budget.from_json("b.json", {"sparsity": sparsity, **more})


def transcription(weights, total, lower, upper):
    """The definition by bisection in floating point, then Hamilton's rounding."""
    low, high = 0.0, max(upper) / min(w for w in weights if w) + 1

    def quotas(c):
        return [min(max(c * w, lo), hi if w else lo) for w, lo, hi in zip(weights, lower, upper, strict=True)]

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(quotas(middle)) >= total else (middle, high)
    found = quotas(high)
    kept = [int(q + 1e-9) for q in found]
    order = sorted(range(len(kept)), key=lambda i: (-round(found[i] - kept[i], 9), i))
    for i in order[: total - sum(kept)]:
        kept[i] += 1
    return kept


@pytest.mark.parametrize("seed", range(40))
def test_apportioned_numbers_are_whole_in_bounds_and_add_up(seed):
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 9, (), generator=generator))
    weights = torch.randint(0, 50, (count,), generator=generator).tolist()
    weights[0] += 1
    lower = torch.randint(0, 5, (count,), generator=generator).tolist()
    upper = [low + more for low, more in zip(lower, torch.randint(0, 60, (count,), generator=generator), strict=True)]
    upper = [int(high) for high in upper]
    least, most = sum(lower), sum(high if w else low for w, low, high in zip(weights, lower, upper, strict=True))
    for total in {least, most, (least + most) // 2, (least + 2 * most) // 3}:
        found = apportion(weights, total, lower, upper)
        assert sum(found) == total
        assert all(low <= kept <= high for low, kept, high in zip(lower, found, upper, strict=True))
        assert found == transcription(weights, total, lower, upper)


def test_equal_claims_to_what_is_left_go_to_the_lower_index():
    assert apportion([1, 1, 1, 1], 6, [0] * 4, [9] * 4) == [2, 2, 1, 1]
    assert apportion([Fraction(1, 3)] * 3, 10, [0] * 3, [3, 9, 9]) == [3, 4, 3]


@pytest.mark.parametrize(("total", "upper"), [(-1, [5, 5]), (11, [5, 5]), (6, [5, 0])])
def test_a_total_outside_the_bounds_is_refused(total, upper):
    with pytest.raises(ValueError, match="outside what the bounds allow"):
        apportion([1, 1], total, [0, 0], upper)


def test_names_go_before_patterns_and_the_first_pattern_decides():
    cuts = budget({"layers.1.*": "50%", "*.up": "60%/row", "*": "2:4", "layers.0.up": "dense"}).cuts(TARGETS)
    assert cuts == {
        "layers.0.up": Dense(),
        "layers.0.down": SemiStructured(2, 4),
        "layers.1.up": Unstructured(Fraction(1, 2), "matrix"),
        "layers.10.up": Unstructured(Fraction(3, 5), "row"),
    }


def test_the_default_takes_what_no_pattern_does():
    cuts = budget({"*.down": {"keep": 7}}, default="2:4").cuts(TARGETS)
    assert cuts["layers.0.down"] == Kept(7)
    assert {cuts[target.name] for target in TARGETS if target.name != "layers.0.down"} == {SemiStructured(2, 4)}


@pytest.mark.parametrize("overall", ["0%", "12.345%", "33.3%", "47%", "60%", "71.9%", "88.888%", "99.9%"])
@pytest.mark.parametrize(
    "rules",
    [
        {"*": "50%"},
        {"*": "60%/row"},
        {"layers.0.*": "30%", "layers.1.*": "70%/row", "*": "90%"},
        {"layers.0.up": "99.9%", "*": "0%"},
    ],
)
def test_the_overall_figure_is_met_exactly(rules, overall):
    cuts = budget(rules, overall=overall).cuts(TARGETS)
    assert list(cuts) == [target.name for target in TARGETS]
    share = parse_sparsity(overall).ratio
    assert sum(kept_weights(cuts[t.name], t.shape) for t in TARGETS) == round((1 - share) * TOTAL)
    for target in TARGETS:
        cut = cuts[target.name]
        if isinstance(cut, KeptRows):
            assert len(cut.weights) == target.shape[0]
            assert max(cut.weights) - min(cut.weights) <= 1
            assert max(cut.weights) <= target.shape[1]
        else:
            assert isinstance(cut, Kept)
            assert cut.weights <= target.shape[0] * target.shape[1]


def test_only_shares_are_scaled_to_the_overall_figure():
    rules = {"layers.0.down": "2:4", "layers.0.up": "dense", "layers.1.up": {"keep": 3}, "*": "50%"}
    cuts = budget(rules, overall="45%").cuts(TARGETS)
    assert cuts["layers.0.down"] == SemiStructured(2, 4)
    assert cuts["layers.0.up"] == Dense()
    assert cuts["layers.1.up"] == Kept(3)
    assert cuts["layers.10.up"] == Kept(round(Fraction(55, 100) * TOTAL) - 48 - 96 - 3)


REFUSED = [
    ({"sparsity": {"*.up": "50%"}}, "has no rule for target 'layers.0.down'; add a pattern for it or a 'default'"),
    ({"sparsity": {"*": "50%", "*.gate": "60%"}}, r"pattern '\*\.gate' of budget 'b\.json' matches no target"),
    ({"sparsity": {"*": "50%", "*.up": "60%"}}, r"pattern '\*\.up' of budget 'b\.json' matches no target"),
    ({"sparsity": {"*": "3:8"}}, "'3:8' needs a multiple of 8 inputs, but 'layers.0.up' has 12"),
    ({"sparsity": {"*": {"keep": 97}}}, "counts of kept weights that do not fit target 'layers.0.up' of 8 rows"),
    ({"sparsity": {"*": {"keep_rows": [1] * 8}}}, "counts of kept weights that do not fit target 'layers.0.down'"),
    ({"sparsity": {"*.10.*": {"keep_rows": [1, 2, 3, 4, 21]}}, "default": "50%"}, "of 5 rows and 20 inputs"),
    ({"sparsity": {"*": "dense"}, "overall": "50%"},
     "cannot meet 'overall' '50%', .* keep 376, and ratios can add at most 0"),
    ({"sparsity": {"*.0.*": "dense", "*": "50%"}, "overall": "60%"},
     "cannot meet 'overall' '60%', which keeps 150 of 376 weights"),
    ({"sparsity": {"layers.0.*": "2:4", "*": "50%"}, "overall": "20%"}, "keep 96, and ratios can add at most 184"),
    ({"sparsity": {"*": {"keep": 4}}, "overall": "20%"}, "cannot meet 'overall'"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "fault"), REFUSED)
def test_a_budget_that_does_not_fit_the_model_is_refused_in_one_sentence(content, fault):
    read = Budget.from_json("b.json", content)
    with pytest.raises(ConfigError, match=fault) as refusal:
        read.check(TARGETS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is not valid JSON"),
        ('{"sparsity": {"*": "50%", "*": "60%"}}', "is not valid JSON: an object repeats a name"),
        ("[]", "must be an object with 'sparsity'"),
        ('{"sparsity": []}', "must be an object with 'sparsity'"),
        ('{"sparsity": {}, "overal": "50%"}', "and optionally 'overall' and 'default'"),
        ('{"sparsity": {}, "overall": "2:4"}', "'overall' in budget 'b.json' must be a ratio such as '60%', not '2:4'"),
        ('{"sparsity": {}, "overall": "60%/row"}', "'overall' in budget"),
        ('{"sparsity": {}, "overall": 60}', "'overall' in budget"),
        ('{"sparsity": {"*": "60%/global"}}', r"'\*' in budget 'b.json' must be 'dense', a ratio"),
        ('{"sparsity": {"*": 0.5}}', r"'\*' in budget"),
        ('{"sparsity": {"*": {"keep": -1}}}', r"'\*' in budget"),
        ('{"sparsity": {"*": {"keep": true}}}', r"'\*' in budget"),
        ('{"sparsity": {"*": {"keep": 1, "rows": 2}}}', r"'\*' in budget"),
        ('{"sparsity": {"*": {"keep_rows": []}}}', r"'\*' in budget"),
        ('{"sparsity": {"*": {"keep_rows": [1, 0.5]}}}', r"'\*' in budget"),
        ('{"sparsity": {}, "default": "some"}', "'default' in budget"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_sentence(text, fault, tmp_path):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ConfigError, match=fault) as refusal:
        parse_sparsity(f"@{tmp_path / 'b.json'}")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"budget 'nowhere\.json' cannot be read"):
        parse_sparsity("@nowhere.json")


def test_what_is_written_reads_back(tmp_path):
    content = {
        "overall": "61.5%",
        "default": "50%/row",
        "sparsity": {"a.*": "2:4", "b": "dense", "c": {"keep": 3}, "d": {"keep_rows": [1, 2]}},
    }
    assert Budget.from_json("x", content).to_json() == content


@pytest.mark.parametrize(("name", "slug"), [("owl-60.json", "owl-60"), ("...json", "budget"), (".a.json", "a")])
def test_a_budget_is_called_as_its_file(name, slug, tmp_path):
    (tmp_path / name).write_text('{"sparsity": {}, "default": "50%"}')
    found = parse_sparsity(f"@{tmp_path / name}")
    assert (str(found), found.slug) == (f"@{name}", slug)


LLAMA = {
    "*.0.self_attn.*": "2:4",
    "*.0.mlp.down_proj.weight": "5:8",
    "*.0.*": "dense",
    "*.q_proj.weight": "70%/row",
    "*.k_proj.weight": {"keep": 50},
    "*.v_proj.weight": {"keep_rows": [0, 24, 3, 3, 7, 0, 1, 2]},
    "*": "55%",
}
GPT2 = {"*.0.attn.*": "2:4", "*.0.*": "dense", "*.c_fc.weight": "70%/row", "*": "55%"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": Checkpoint.open(save_llama(folder / "llama")),
        "gpt2": Checkpoint.open(save_gpt2(folder / "gpt2")),
    }


def expected_mask(score, cut):
    """By stable sorts alone."""
    if isinstance(cut, SemiStructured):
        return reference.nm_mask(score, cut.n, cut.m)
    if isinstance(cut, Dense):
        return torch.ones_like(score, dtype=torch.bool)
    if isinstance(cut, KeptRows):
        return torch.cat([reference.topk_mask(row[None], keep) for row, keep in zip(score, cut.weights, strict=True)])
    return reference.topk_mask(score.view(1, -1), kept_weights(cut, score.shape)).view(score.shape)


@pytest.mark.parametrize("backend", [BACKEND, ReferenceBackend()], ids=lambda backend: backend.name)
@pytest.mark.parametrize("levels", [0, 3], ids=["distinct", "ties"])
@pytest.mark.parametrize(("model", "rules"), [("llama", LLAMA), ("gpt2", GPT2)])
def test_a_mixed_budget_is_projected_as_it_says(model, rules, levels, backend, models, tmp_path):
    checkpoint, sparsity = models[model], budget(rules, overall="50%")
    scores = FakeScores(checkpoint, levels=levels)
    (result,) = project(checkpoint, scores, [sparsity], tmp_path / "out", backend)
    assert result.pruned == result.total - round(Fraction(1, 2) * result.total)
    cuts, masks = sparsity.cuts(scores.targets), read_masks(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "unipruning.json").read_text())
    pruned = Checkpoint.open(tmp_path / "out")
    for target in scores.targets:
        mask = expected_mask(scores.score(target.name), cuts[target.name])
        assert torch.equal(masks.read(target.name), mask)
        stored = mask.t() if target.transposed else mask
        assert torch.equal(pruned.read(target.name), checkpoint.read(target.name).masked_fill(~stored, 0))
        said = report["matrices"][target.name]
        assert (said["asked"], said["kept"]) == (str(cuts[target.name]), int(mask.sum()))
    assert report["sparsity"] == masks.sparsity == "@b.json"
    assert {masks.patterns[target.name] for target in scores.targets if ".0." in target.name} >= {
        SemiStructured(2, 4),
        None,
    }


def test_a_budget_beside_other_sparsities_gives_what_it_gives_alone(models, tmp_path):
    checkpoint = models["llama"]
    scores, wanted = FakeScores(checkpoint, levels=20), [budget(LLAMA, overall="50%"), *map(parse_sparsity, ["55%"])]
    project(checkpoint, scores, wanted, tmp_path / "both", BACKEND)
    for sparsity in wanted:
        project(checkpoint, scores, [sparsity], tmp_path / sparsity.slug, BACKEND)
        assert content(tmp_path / "both" / sparsity.slug) == content(tmp_path / sparsity.slug)


def test_nothing_is_written_for_a_budget_that_does_not_fit(models, tmp_path):
    with pytest.raises(ConfigError, match="matches no target"):
        project(
            models["llama"],
            FakeScores(models["llama"]),
            [budget({"*": "50%", "none": "60%"})],
            tmp_path / "out",
            BACKEND,
        )
    assert not list(tmp_path.iterdir())

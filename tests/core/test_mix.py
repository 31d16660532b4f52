"""Mixes: the form of each matrix chosen by what the scores lose, against trying every choice."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from _checkpoints import FakeScores, content, save_llama

from unipruning_core.errors import ConfigError
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.sparsity.forms import Dense, SemiStructured, Unstructured, kept_weights
from unipruning_core.sparsity.knapsack import Option, choose
from unipruning_core.sparsity.mix import Mix
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.tools.plan.plan import pruned_weights
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

BACKEND = CpuBackend()


def random_items(seed, *, sizes=(0, 3, 4, 6, 8), count=5):
    generator = torch.Generator().manual_seed(seed)

    def option():
        size = sizes[int(torch.randint(len(sizes), (), generator=generator))]
        return Option(size * 12, float(torch.randint(1, 30, (), generator=generator)))

    return [[option() for _ in range(int(torch.randint(1, 4, (), generator=generator)))] for _ in range(count)]


def totals(items, chosen):
    taken = [options[position] for options, position in zip(items, chosen, strict=True)]
    return sum(option.size for option in taken), sum(option.loss for option in taken)


def every_total(items):
    """The least loss of each reachable total, by trying every choice."""
    best = {}
    for chosen in product(*(range(len(options)) for options in items)):
        size, loss = totals(items, chosen)
        best[size] = min(loss, best.get(size, loss))
    return best


@pytest.mark.parametrize("wanted", [-5, 0, 100, 131, 200, 10**6])
@pytest.mark.parametrize("seed", range(12))
def test_no_choice_comes_nearer_and_none_as_near_loses_less(seed, wanted):
    items = random_items(seed)
    best = every_total(items)
    size, loss = totals(items, choose(items, wanted))
    assert abs(size - wanted) == min(abs(total - wanted) for total in best)
    assert loss == best[size]


@pytest.mark.parametrize("wanted", [0, 100, 131, 200])
@pytest.mark.parametrize("seed", range(12))
def test_the_greedy_choice_is_the_cheapest_of_its_total_and_within_half_a_step(seed, wanted):
    items = random_items(seed)
    best = every_total(items)
    size, loss = totals(items, choose(items, wanted, largest_table=0))
    assert loss == best[size]
    reachable = min(max(wanted, min(best)), max(best))
    largest = max(max(o.size for o in options) - min(o.size for o in options) for options in items)
    assert abs(size - reachable) <= largest / 2


def test_of_two_totals_as_near_the_larger_is_taken_and_ties_go_to_the_lower_position():
    assert choose([[Option(0, 1.0), Option(4, 1.0)]], 2) == [1]
    assert choose([[Option(4, 1.0), Option(4, 1.0)]], 4) == [0]
    item = [Option(0, 0.0), Option(4, 1.0)]
    assert choose([item, item, item], 4) == choose([item, item, item], 4, largest_table=0) == [1, 0, 0]


def test_a_mix_is_read_and_named():
    mix = parse_sparsity("2:4+60%/row+dense@45.0%")
    assert mix == Mix((SemiStructured(2, 4), Unstructured(Fraction(3, 5), "row"), Dense()), Fraction(9, 20))
    assert (str(mix), mix.slug) == ("2:4+60%/row+dense@45%", "2-4+60-row+dense-at-45")
    check_distinct([mix, parse_sparsity("2:4+dense@45%")])


@pytest.mark.parametrize(
    "text", ["2:4@", "2:4+@45%", "2:4+2:4@45%", "60%/global+dense@30%", "2:4+dense@45%/row", "a@b"]
)
def test_anything_else_is_refused_with_the_form_that_is_taken(text):
    with pytest.raises(ConfigError, match=r"such as 2:4\+dense@45%") as refusal:
        parse_sparsity(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("2:4+dense@60%", r"prune from 0\.0000% to 50\.0000% of these matrices; add a form"),
        ("2:4+60%@45%", "cannot be met"),
        ("2:5+1:3@50%", "has no form for 'b', whose 8 inputs are not a multiple of any of its groups"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(text, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_sparsity(text).check([Target("a", (4, 60)), Target("b", (4, 8))])


def test_a_plan_says_that_it_cannot_count_what_scores_choose():
    with pytest.raises(ConfigError, match="are chosen by scores, which a plan does not have"):
        pruned_weights([Target("a", (4, 8))], parse_sparsity("2:4+dense@45%"), 32)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("llama")))


class UnequalScores(FakeScores):
    """Each target's scores have a scale of their own, as those of a loss have."""

    def score(self, name):
        return super().score(name) * (1 + sum(map(ord, name)) % 17)


def masks_by_sorting(score, cut):
    if isinstance(cut, SemiStructured):
        return reference.nm_mask(score, cut.n, cut.m)
    return torch.ones_like(score, dtype=torch.bool)


@pytest.mark.parametrize("text", ["2:4+dense@30%", "1:4+2:4+dense@45%", "3:8+5:8@52%"])
def test_the_scores_lose_least_at_the_share_that_is_met(text, llama, tmp_path):
    mix, scores = parse_sparsity(text), UnequalScores(llama)
    (result,) = project(llama, scores, [mix], tmp_path / "out", BACKEND)
    masks = read_masks(tmp_path / "out")

    # by totals, since trying 3**14 choices takes too long
    least = {0: 0.0}
    for target in scores.targets:
        score = scores.score(target.name)
        taken = {}
        for cut in mix.choices:
            pruned = score.numel() - kept_weights(cut, target.shape)
            loss = score.double()[~masks_by_sorting(score, cut)].square().sum().item()
            for total, lost in least.items():
                taken[total + pruned] = min(lost + loss, taken.get(total + pruned, float("inf")))
        least = taken
    wanted = result.total - round((1 - mix.ratio) * result.total)
    assert abs(result.pruned - wanted) == min(abs(total - wanted) for total in least)

    lost = 0.0
    for target in scores.targets:
        cut = masks.patterns[target.name] or Dense()
        mask = masks_by_sorting(scores.score(target.name), cut)
        assert cut in mix.choices
        assert torch.equal(masks.read(target.name), mask)
        lost += scores.score(target.name).double()[~mask].square().sum().item()
    assert lost == pytest.approx(least[result.pruned], rel=1e-9)


def test_a_matrix_whose_inputs_do_not_divide_takes_another_form():
    targets = [Target("a", (4, 16)), Target("b", (4, 12)), Target("c", (4, 8))]
    mix = parse_sparsity("2:8+2:4@55%")
    mix.check(targets)
    chosen = mix.choose(targets, [[3.0, 1.0], [1.0], [2.0, 1.9]])
    assert chosen == {"a": SemiStructured(2, 4), "b": SemiStructured(2, 4), "c": SemiStructured(2, 8)}


def test_a_mix_beside_other_sparsities_gives_what_it_gives_alone(llama, tmp_path):
    scores = UnequalScores(llama, levels=5)
    texts = ["2:4+dense@30%", "50%", "2:4+4:8@50%", "60%/global"]
    project(llama, scores, [parse_sparsity(text) for text in texts], tmp_path / "all", BACKEND)
    for sparsity in map(parse_sparsity, texts):
        project(llama, scores, [sparsity], tmp_path / sparsity.slug, BACKEND)
        assert content(tmp_path / "all" / sparsity.slug) == content(tmp_path / sparsity.slug)

"""The least number of weights that every output row keeps: the masks of a plain sort, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
import torch
from _checkpoints import FakeScores, content, parsed, save_llama
from _drawn import quick
from hypothesis import given
from hypothesis import strategies as st

import unipruning
from unipruning_core.errors import ConfigError, OutputError
from unipruning_core.progress import Progress
from unipruning_core.projection.decide import decide
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.masks import masks_of
from unipruning_core.projection.place import Output
from unipruning_core.projection.project import project
from unipruning_core.projection.report import KEEP_PER_ROW, read_report
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Kept, Unstructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.sparsity.per_row import check_keep_per_row, check_rows_fit
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
OUTSIDE = 50  # weights of the model that are no targets


@dataclass
class Drawn:
    """Scores of a few small matrices, with few values, so that many are tied."""

    scores: list[torch.Tensor]
    fingerprint: str = ""
    scope: str = "matrix"
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def targets(self):
        return tuple(Target(str(number), tuple(score.shape)) for number, score in enumerate(self.scores))

    def score(self, name):
        return self.scores[int(name)]


def masks(scores, sparsity, keep):
    weights = OUTSIDE + sum(target.size for target in scores.targets)
    decided = decide(scores, [sparsity], BACKEND, Progress(), weights, None, keep)
    return [
        next(masks_of(scores.score(target.name), number, target.name, decided, BACKEND))
        for number, target in enumerate(scores.targets)
    ]


def by_sorting(matrices, total, keep):
    """Keep the ``keep`` first of each row in the order of the scores, then the first of all others."""
    order = sorted(
        (-float(score), number, row, column)
        for number, matrix in enumerate(matrices)
        for row, line in enumerate(matrix)
        for column, score in enumerate(line)
    )
    kept, of_row = [], {}
    for item in order:
        of_row.setdefault(item[1:3], []).append(item)
    protected = {item for items in of_row.values() for item in items[:keep]}
    kept = [*protected, *[item for item in order if item not in protected][: total - len(protected)]]
    found = [torch.zeros(matrix.shape, dtype=torch.bool) for matrix in matrices]
    for _, number, row, column in kept:
        found[number][row, column] = True
    return found


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(2, 6)), min_size=1, max_size=3))
    uneven = [torch.rand(rows, 1, generator=generator) * 2 for rows, _ in shapes]  # some rows are far below the others
    scores = [
        (torch.rand(shape, generator=generator) * row**4 * levels).floor() / levels
        for shape, row in zip(shapes, uneven, strict=True)
    ]
    keep = draw(st.integers(0, min(columns for _, columns in shapes)))
    ratio = Fraction(draw(st.integers(0, 999)), 1000)
    return Drawn(scores), keep, ratio


@quick
@given(problems(), st.sampled_from(["matrix", "global", "model"]))
def test_the_masks_are_those_of_a_plain_sort_with_the_total_of_the_sparsity(problem, scope):
    scores, keep, ratio = problem
    sparsity = Unstructured(ratio, scope)
    total = sum(target.size for target in scores.targets)
    try:
        together = sparsity.keep_together(total, total + OUTSIDE)
        check_rows_fit(keep, sparsity, scores.targets, total + OUTSIDE)
    except ConfigError:
        rows = [target.shape[0] * keep for target in scores.targets]
        kept = [sparsity.keep(target.size) for target in scores.targets]
        fits = all(map(int.__le__, rows, kept)) if scope == "matrix" else sum(rows) <= sparsity.keep(total)
        assert not fits or scope == "model"
        return
    if scope == "matrix":
        expected = [by_sorting([score], sparsity.keep(score.numel()), keep)[0] for score in scores.scores]
    else:
        expected = by_sorting(scores.scores, together, keep)
    found = masks(scores, sparsity, keep)
    assert all(map(torch.equal, found, expected))
    assert all(int(mask.sum(dim=1).min()) >= keep for mask in found)


@quick
@given(problems(), st.sampled_from(["matrix", "global"]))
def test_where_every_row_keeps_as_many_anyway_nothing_changes(problem, scope):
    scores, _, ratio = problem
    sparsity = Unstructured(ratio, scope)
    without = masks(scores, sparsity, 0)
    least = min(int(mask.sum(dim=1).min()) for mask in without)
    assert all(map(torch.equal, masks(scores, sparsity, least), without))


@quick
@given(problems())
def test_exact_counts_of_a_budget_keep_their_totals(problem):
    scores, keep, ratio = problem
    counts = [max(keep * t.shape[0], Unstructured(ratio).keep(t.size)) for t in scores.targets]
    budget = Budget("b", tuple((t.name, Kept(count)) for t, count in zip(scores.targets, counts, strict=True)))
    check_rows_fit(keep, budget, scores.targets, 10**6)
    expected = [by_sorting([score], count, keep)[0] for score, count in zip(scores.scores, counts, strict=True)]
    assert all(map(torch.equal, masks(scores, budget, keep), expected))


def test_groups_of_a_pattern_rank_by_their_own_scores():
    """Protected scores would be tied within a group, which keeps its largest all the same."""
    score = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3, 0.4]])
    budget = Budget("b", (("0", parse_sparsity("2:4")), ("1", Kept(3))))
    pattern, counted = masks(Drawn([score, score]), budget, 3)
    assert pattern.tolist() == [[False, False, True, True, False, False, True, True]]
    assert counted.tolist() == [[False, True, True, True, False, False, False, False]]


def test_a_mix_is_chosen_by_what_its_masks_lose():
    """50% loses least in the second matrix, unless it has to keep a weight of the row that it prunes whole."""
    even, uneven = torch.full((2, 4), 2.0), torch.tensor([[1.0, 1, 1, 1], [9.0, 9, 9, 9]])
    mix = parse_sparsity("50%+dense@25%")
    lost = []
    for keep in (0, 1):
        found = masks(Drawn([even, uneven]), mix, keep)
        lost.append([int((~mask).sum()) for mask in found])
    assert lost == [[0, 4], [4, 0]]
    only = Drawn([uneven])
    assert masks(only, parse_sparsity("50%+dense@50%"), 1)[0].tolist() == [[True] + [False] * 3, [True] * 3 + [False]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("llama")))


class Uneven(FakeScores):
    """Scores by which some rows lose all of their weights."""

    def score(self, name):
        score = super().score(name)
        score[::3] *= 1e-3
        return score


@pytest.mark.parametrize("text", ["80%", "80%/global", "60%/model", "@budget.json", "80%+dense@50%"])
def test_no_row_is_empty_and_the_report_says_what_was_asked(text, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rules = {"*.0.*": "80%", "*": "90%"}
    (tmp_path / "budget.json").write_text(json.dumps({"overall": "70%", "sparsity": rules}))
    results = [
        project(llama, Uneven(llama), parsed(text), tmp_path / str(keep), BACKEND, keep_per_row=keep)[0]
        for keep in (0, 2)
    ]
    assert results[0].empty_rows > 0 == results[1].empty_rows
    assert (results[0].pruned, results[0].total) == (results[1].pruned, results[1].total)
    assert [read_report(result.path)["keep_per_row"] for result in results] == [0, 2]
    found = read_masks(results[1].path)
    # what 80% leaves dense has no row to fill
    assert min(int(found.read(target.name).sum(dim=1).min()) for target in found.targets) == 2
    kept = [read_report(result.path)["overall"]["kept"] for result in results]
    assert kept[0] == kept[1]


def test_a_model_in_memory_gets_the_masks_of_the_same_model_on_disk(home, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, how = home / "model", {"sparsity": "85%/matrix", "keep_per_row": 2, "progress": False}
    scores = Uneven(Checkpoint.open(folder))
    in_memory = unipruning.project(AutoModelForCausalLM.from_pretrained(folder), scores, **how)
    (on_disk,) = unipruning.project(str(folder), scores, out=tmp_path / "out", **how)
    packed = read_masks(on_disk.path)
    assert all(torch.equal(mask, packed.read(name)) for name, mask in in_memory.items())


@pytest.mark.parametrize(
    ("keep", "text", "fault"),
    [
        (9, "50%", "--keep-per-row 9 is more than the 8 inputs of 'b'; pass a smaller number"),
        (
            2,
            "90%",
            "does not fit sparsity '90%', which keeps 6 weights of 4 rows of 'a'; pass --keep-per-row 1 or less",
        ),
        (1, "99%", "which keeps 1 weights of 4 rows of 'a'; omit --keep-per-row, or prune less"),
        (2, "90%/global", "which keeps 10 weights of 8 rows; pass --keep-per-row 1 or less, or prune less"),
        (3, "80%/model", "which keeps 16 weights of 8 rows; pass --keep-per-row 2 or less, or prune less"),
        (6, "2:4", "'2:4', which keeps 16 weights of 4 rows of 'b'; pass --keep-per-row 4 or less"),
        (6, "50%/row", "which keeps 16 weights of 4 rows of 'b'; pass --keep-per-row 4 or less"),
        (5, "50%+dense@30%", "'50%/matrix+dense@30%', which keeps 16 weights of 4 rows of 'b'"),
        (2, "@budget", "'@budget', which keeps 15 weights of 4 rows of 'b'; pass --keep-per-row 1 or less"),
    ],
)
def test_what_leaves_too_few_weights_for_the_rows_is_refused(keep, text, fault):
    targets = [Target("a", (4, 16)), Target("b", (4, 8))]
    rules = {"a": "dense", "b": {"keep_rows": [1, 4, 5, 5]}}
    sparsity = Budget.from_json("budget", {"sparsity": rules}) if text == "@budget" else parse_sparsity(text)
    with pytest.raises(ConfigError) as refused:
        check_rows_fit(keep, sparsity, targets, 100)
    assert fault in str(refused.value)
    check_rows_fit(0, sparsity, targets, 100)


@pytest.mark.parametrize(
    ("keep", "texts", "fault"),
    [
        (-1, ["60%"], "--keep-per-row must be a whole number of at least 0, not -1"),
        (True, ["60%"], "not True"),
        (1.5, ["60%"], "not 1.5"),
        (1, ["2:4", "50%/row"], "--keep-per-row 1 has no effect on sparsity '2:4', which keeps the same number of"),
    ],
)
def test_what_is_no_number_or_has_no_effect_is_refused(keep, texts, fault):
    with pytest.raises(ConfigError) as refused:
        check_keep_per_row(keep, map(parse_sparsity, texts))
    assert fault in str(refused.value)


def test_beside_a_ratio_a_pattern_is_no_reason_to_refuse():
    check_keep_per_row(2, map(parse_sparsity, ["2:4", "60%"]))
    check_keep_per_row(0, [parse_sparsity("2:4")])


def test_a_checkpoint_that_keeps_another_number_is_not_what_a_killed_command_left(llama, tmp_path):
    project(llama, Uneven(llama), parsed("80%"), tmp_path / "out", BACKEND, keep_per_row=2)
    place = Output(tmp_path / "out", None, (), (tmp_path / "out",))
    place.check_same([{"sparsity": "80%/matrix", KEEP_PER_ROW: 2}])
    for other in (0, 1):
        with pytest.raises(OutputError, match="is not empty"):
            place.check_same([{"sparsity": "80%/matrix", KEEP_PER_ROW: other}])


def test_the_command_refuses_before_the_search_and_projects_the_same(home, search_words, refused, tmp_path):
    from _folders import succeed

    words = [*search_words, "--mode", "frozen", "--metric", "magnitude", "--out", tmp_path / "out"]
    assert refused("prune", *words, "--sparsity", "2:4", "--keep-per-row", "1").startswith(
        "error: --keep-per-row 1 has no"
    )
    error = refused("prune", *words, "--sparsity", "99%", "--keep-per-row", "1")
    assert "--keep-per-row 1 does not fit sparsity '99%/matrix'" in error
    assert not (tmp_path / "out-run").exists()
    succeed("prune", *words, "--sparsity", "80%", "--keep-per-row", "2")
    more = ["--sparsity", "80%", "--keep-per-row", "2", "--out", tmp_path / "again"]
    succeed("project", home / "model", tmp_path / "out-run", *more)
    assert content(tmp_path / "out") == content(tmp_path / "again")
    assert read_report(tmp_path / "again")["keep_per_row"] == 2

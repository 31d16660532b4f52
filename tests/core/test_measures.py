"""The figures of an evaluation: standard errors of paired differences, against plain statistics."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest

from unipruning_core.errors import OutputError
from unipruning_core.evaluation.measures import (
    Measure,
    difference,
    mean_difference,
    mean_of,
    measures_of,
    perplexity_measure,
)
from unipruning_core.evaluation.records import Cell, folder_name
from unipruning_core.evaluation.table import rows_of, to_text

ITEMS = ("a", "b", "c", "d", "e")


def accuracy(*values, task="pick", hashes=ITEMS):
    return Measure(task, "acc,none", mean(values), stdev(values) / math.sqrt(len(values)), tuple(values), hashes)


def test_a_difference_is_paired_over_the_same_items():
    found = difference(accuracy(1, 0, 1, 0, 0), accuracy(1, 1, 1, 1, 0))
    assert found.value == pytest.approx(-0.4)
    assert found.stderr == pytest.approx(stdev([0, -1, 0, -1, 0]) / math.sqrt(5))


def test_a_difference_over_other_items_has_no_standard_error():
    found = difference(accuracy(1, 0, 1, 0, 0), accuracy(1, 1, 1, 1, 0, hashes=("a", "b", "c", "d", "x")))
    assert (found.value, found.stderr) == (pytest.approx(-0.4), None)
    assert difference(accuracy(1, 0, 1, 0, 0), None) is None


def test_the_difference_of_perplexities_is_that_of_their_windows_times_the_values():
    ours, first = (2.0, 2.5, 3.0), (1.0, 1.25, 2.0)
    found = difference(perplexity_measure("text", ours, "ab"), perplexity_measure("text", first, "ab"))
    a, b = math.exp(mean(ours)), math.exp(mean(first))
    assert found.value == pytest.approx(a - b)
    assert found.stderr == pytest.approx(
        stdev([a * x - b * y for x, y in zip(ours, first, strict=True)]) / math.sqrt(3)
    )


def test_windows_of_another_text_are_not_paired():
    found = difference(perplexity_measure("text", (2.0, 2.5), "ab"), perplexity_measure("text", (2.0, 2.5), "cd"))
    assert (found.value, found.stderr) == (0.0, None)


def test_the_perplexity_of_a_broken_model_is_infinite_and_has_no_difference():
    broken = perplexity_measure("text", (900.0, 800.0), "ab")
    assert broken.value == math.inf
    assert broken.stderr is None
    assert difference(broken, perplexity_measure("text", (2.0, 2.5), "ab")) is None


def test_the_mean_takes_the_normalised_accuracy_of_a_task_that_has_one():
    plain = accuracy(1, 0, 1, 0, 0)
    normalised = Measure("pick", "acc_norm,none", 0.6, 0.2, (1, 1, 1, 0, 0), ITEMS)
    other = accuracy(0, 0, 0, 0, 1, task="other")
    figure = mean_of([plain, normalised, other, perplexity_measure("text", (2.0, 2.5), "ab")])
    assert (figure.metric, figure.value) == ("of 2 tasks", pytest.approx((0.6 + 0.2) / 2))
    assert figure.stderr == pytest.approx(math.hypot(0.2, other.stderr) / 2)
    assert mean_of([plain, normalised]) is None  # one task


def test_the_difference_of_means_is_the_mean_of_paired_differences():
    first = [accuracy(1, 1, 1, 0, 0), accuracy(1, 1, 0, 0, 0, task="other")]
    ours = [accuracy(1, 0, 1, 0, 0), accuracy(0, 1, 0, 0, 0, task="other")]
    pairs = [difference(one, two) for one, two in zip(ours, first, strict=True)]
    found = mean_difference(ours, first)
    assert found.value == pytest.approx(-0.2)
    assert found.stderr == pytest.approx(math.hypot(pairs[0].stderr, pairs[1].stderr) / 2)


def result(values, stderr=0.1, **figures):
    """What lm-eval returns of one task with some values by item."""
    samples = [{"filter": "none", "acc": value, "doc_hash": name} for value, name in zip(values, ITEMS, strict=False)]
    found = {"alias": "pick", "acc,none": mean(values), "acc_stderr,none": stderr, **figures}
    return {"results": {"pick": found}, "samples": {"pick": samples}}


def test_figures_of_lm_eval_are_read_with_their_items():
    (found,) = measures_of(result([1.0, 0.0]))
    assert found == Measure("pick", "acc,none", 0.5, 0.1, (1.0, 0.0), ("a", "b"))


def test_a_figure_that_is_no_mean_of_its_items_is_read_without_them():
    changed = result([1.0, 0.0], **{"acc,none": 0.7, "acc_stderr,none": "N/A"})
    assert measures_of(changed) == [Measure("pick", "acc,none", 0.7, None)]


def test_a_record_comes_back_as_it_was_written(tmp_path):
    cell = Cell.of(tmp_path, "pick/it", {"limit": 5})
    measures = [accuracy(1, 0, 1, 0, 0), perplexity_measure("text", (math.inf, 2.0), "ab")]
    assert cell.read() is None
    cell.write(measures, {"results.json": "{}"})
    assert cell.read() == measures
    assert cell.folder.name.startswith("pick_it-")
    assert Cell.of(tmp_path, "pick/it", {"limit": 6}).read() is None


@pytest.mark.parametrize(("before", "after"), [('"limit": 5', '"limit": 6'), ("0.4", "0.5"), ("{", "")])
def test_a_damaged_record_is_refused(tmp_path, before, after):
    cell = Cell.of(tmp_path, "pick", {"limit": 5})
    cell.write([accuracy(1, 0, 1, 0, 0)], {})
    path = cell.folder / "measured.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(OutputError, match=r"is damaged .*; remove it to measure again"):
        cell.read()


def test_a_folder_is_named_by_the_model_and_its_weights():
    assert folder_name("some/where/60 %", "0123456789abcdef") == "60_-0123456789ab"


def test_the_table_has_the_first_model_first_and_the_mean_last():
    dense = [accuracy(1, 1, 1, 0, 0), accuracy(1, 1, 0, 0, 0, task="other")]
    pruned = [accuracy(1, 0, 1, 0, 0), accuracy(0, 1, 0, 0, 0, task="other")]
    rows = rows_of({"dense": dense, "pruned": pruned})
    assert [(row.task, row.model) for row in rows] == [
        (task, model) for task in ("pick", "other", "mean") for model in ("dense", "pruned")
    ]
    lines = to_text(rows).splitlines()
    assert lines[1].split() == ["pick", "acc", "dense", "5", "0.6000", "0.2449"]
    assert lines[2].split() == ["pruned", "5", "0.4000", "0.2449", "-0.2000", "0.2000"]

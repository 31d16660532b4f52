"""Comparing methods, what needs no run: how methods are written, what the figures of the table mean, and the plot."""

import math
from dataclasses import fields

import numpy as np
import pytest

from unipruning_core.compare import plot as compare_plot
from unipruning_core.compare.methods import PRESETS, SPECS, parse_method, parse_methods
from unipruning_core.compare.plan import settings_of_method
from unipruning_core.compare.table import Row, interval, resampled
from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.parse import parse_sparsity


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_settings_that_exist(name):
    methods, remarks = parse_methods([], [name])
    assert len(methods) == len(PRESETS[name])
    assert set(remarks) <= {text for text, _ in PRESETS[name]}
    for method in methods:
        settings_of_method(method.scores)
        assert method.budget_source is None or settings_of_method(method.budget_source)


@pytest.mark.parametrize("name", SPECS)
def test_a_method_without_a_budget_takes_the_one_that_suits_it(name):
    method = parse_method(name)
    spec = SPECS[name]
    assert method.budget == spec.budget
    assert method.with_budget(parse_sparsity("2:4")) == (None if spec.scheme else parse_sparsity("2:4"))
    share = parse_sparsity("60%" if spec.scheme else f"60%/{spec.budget}")
    assert method.with_budget(parse_sparsity("60%")) == (None if spec.patterns_only else share)


def test_a_search_for_a_pattern_is_compared_at_that_pattern():
    method = parse_method("feedback:pattern=2:4:local_exponent=2")
    assert method.overrides == {"pattern": "2:4", "local_exponent": "2"}
    assert method.with_budget(parse_sparsity("2:4")) == parse_sparsity("2:4")
    assert method.with_budget(parse_sparsity("4:8")) is method.with_budget(parse_sparsity("50%")) is None


def test_a_method_given_twice_is_compared_once():
    assert len(parse_methods(["wanda/row,wanda", "wanda"], [])[0]) == 1
    with pytest.raises(ConfigError, match="each once"):
        parse_method("drift:samples=4:samples=8")


def test_a_resampled_perplexity_is_the_median_over_seeds_of_each_seeds_own():
    generator = np.random.default_rng(3)
    nll, draw = generator.normal(3, 0.4, size=(3, 7)), generator.integers(7, size=(20, 7))
    wanted = [np.median([np.exp(sum(losses[window] for window in windows) / 7) for losses in nll]) for windows in draw]
    np.testing.assert_allclose(resampled(nll, draw), wanted, rtol=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        nll = generator.normal(3, 0.3, size=(1, 64))
        low, high = interval(resampled(nll, generator.integers(64, size=(1000, 64))))
        held += low <= np.exp(3) <= high
    assert 0.90 <= held / 400 <= 0.98


class Axes:
    """Stands for matplotlib's: remembers what was drawn."""

    def __init__(self):
        self.lines = {}

    def errorbar(self, x, y, error, **style):
        self.lines[style["label"]] = (x, y, error)

    def axhline(self, y, **style):
        self.lines[style["label"]] = y

    def __getattr__(self, name):
        return lambda *_, **__: None


def row(method, sparsity, perplexity, pruned):
    figures = dict.fromkeys((field.name for field in fields(Row)), None)
    bounds = {"low": perplexity - 1.0, "high": perplexity + 2.0}
    return Row(
        **{**figures, **bounds, "method": method, "sparsity": sparsity, "perplexity": perplexity, "pruned": pruned}
    )


def test_the_plot_has_a_line_a_budget_and_n_of_m_stands_apart():
    axes = Axes()
    shares = [row("wanda", "60%/row", 50.0, 0.6), row("wanda", "50%/row", 40.0, 0.5), row("wanda", "60%", 55.0, 0.6)]
    broken = row("wanda", "70%/row", math.inf, 0.7)
    compare_plot.draw(axes, [row("dense", "", 20.0, 0.0), *shares, broken, row("wanda", "2:4", 60.0, 0.5)], "title")
    assert axes.lines == {
        "dense": 20.0,
        "wanda/row": ([50.0, 60.0], [40.0, 50.0], [[1.0, 1.0], [2.0, 2.0]]),
        "wanda": ([60.0], [55.0], [[1.0], [2.0]]),
        "wanda 2:4": ([50.0], [60.0], [[1.0], [2.0]]),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_rows_of_a_preset_are_one_search_under_two_names(name):
    methods = parse_methods([], [name])[0]
    searches = [(m.budget, m.calibration("samples", 64), m.calibration("seq_len", 1024), m.name) for m in methods]
    made = [(*search, settings_of_method(m.scores)) for search, m in zip(searches, methods, strict=True)]
    assert all(first != second for i, first in enumerate(made) for second in made[:i])

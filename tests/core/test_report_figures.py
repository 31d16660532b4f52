"""The figures of a report: places, spreads, scales, what is read of results, SVG and PNG."""

from __future__ import annotations

import math
from itertools import combinations
from math import gcd
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from _drawn import quick
from _folders import SEARCH, succeed
from hypothesis import given
from hypothesis import strategies as st

from unipruning_core.report import png
from unipruning_core.report.axes import Scale, scale_of, shown
from unipruning_core.report.charts import Point, domain_of, histograms, quality_chart, step_of, steps_chart
from unipruning_core.report.figure import PALETTE, SERIES, STEPS, Disc, Figure, Label
from unipruning_core.report.places import Place, places_of, short_names
from unipruning_core.report.scores import LOWEST, PER_DECADE, SAMPLED, Spread, stride_of
from unipruning_core.report.svg import colour_rules, inline_svg, standalone_svg


def test_a_matrix_is_placed_by_its_layer_and_projection():
    names = {
        "model.layers.3.mlp.up_proj.weight": Place(3, "mlp.up_proj"),
        "model.layers.12.mlp.experts.7.up_proj.weight": Place(12, "mlp.experts.*.up_proj"),
        "model.layers.0.mlp.experts.gate_up_proj.3": Place(0, "mlp.experts.gate_up_proj.*"),
        "lm_head.weight": Place(-1, "lm_head"),
    }
    assert places_of(names) == names
    two = places_of(["encoder.layers.0.fc1.weight", "decoder.layers.0.fc1.weight"])
    assert [place.projection for place in two.values()] == ["encoder.layers.fc1", "decoder.layers.fc1"]


def test_projections_are_called_by_their_last_part_where_that_is_enough():
    assert short_names(["mlp.up_proj", "attn.q_proj"]) == {"mlp.up_proj": "up_proj", "attn.q_proj": "q_proj"}
    assert short_names(["mlp.up", "experts.*.up"]) == {"mlp.up": "mlp.up", "experts.*.up": "experts.*.up"}


@quick
@given(rows=st.integers(1, 40_000), columns=st.integers(1, 40_000))
def test_sampled_scores_lie_in_all_columns_and_are_no_more_than_asked(rows, columns):
    stride = stride_of((rows, columns))
    assert gcd(stride, columns) == 1
    assert -(-rows * columns // stride) <= SAMPLED


def test_scores_are_counted_in_their_bins():
    scores = torch.tensor([0.0, 1.0, 1.2, 1.4, 9.9, 10.0, 1e-45, 3e38])
    mask = torch.tensor([False, True, False, True, False, True, False, True])
    spread = Spread()
    spread.add(scores, mask)
    assert spread.zeros == 1
    assert spread.total == len(scores)
    one = -LOWEST * PER_DECADE
    # an eighth of a decade above 1 begins at 1.33
    assert [int(spread.kept[one]), int(spread.pruned[one]), int(spread.kept[one + 1])] == [1, 1, 1]
    assert [int(spread.pruned[one + 7]), int(spread.kept[one + 8])] == [1, 1]
    assert int(spread.pruned[:16].sum()) == 1
    assert int(spread.kept[-8 * 39 :].sum()) == 4
    whole = Spread()
    whole.add(scores, None)
    assert torch.equal(whole.kept, spread.kept + spread.pruned)


@quick
@given(st.lists(st.floats(0, 1), min_size=1))
def test_the_scale_of_a_map_has_all_its_values(fractions):
    low, high = domain_of(fractions)
    assert low <= min(fractions) + 1e-9
    assert high >= max(fractions) - 1e-9
    assert high - low >= 0.049
    assert all(0 <= step_of(value, (low, high)) < STEPS for value in fractions)


@quick
@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12), st.booleans())
def test_ticks_are_round_and_inside(one, two, logarithmic):
    scale = scale_of([one, two], 0, 100, logarithmic=logarithmic)
    ticks = scale.ticks(5)
    assert ticks == sorted(set(ticks))
    assert all(-0.01 <= scale(tick) <= 100.01 for tick in ticks)
    assert len(ticks) <= 11
    if not logarithmic:
        assert len(ticks) >= 2


def test_numbers_are_shown_in_few_letters():
    assert [shown(value) for value in (0.0, 0.5, 1200.0, 123456.0, 0.00012, -3.0)] == [
        *("0", "0.5", "1200", "1.23e5", "1.2e-4", "-3")
    ]


def test_a_logarithmic_scale_is_even_in_ratios():
    scale = Scale(1, 100, 0, 200, True)
    assert [scale(1), scale(10), scale(100)] == [0, 100, 200]


def test_a_value_of_quality_stands_where_the_axes_say():
    points = {
        "a": [Point(0.5, 20.0, 18.0, 22.0, ""), Point(0.7, 80.0, None, None, "")],
        "b": [Point(0.5, 30.0, None, None, "")],
    }
    figure = quality_chart("q", "Q", "perplexity", points, dense=10.0, logarithmic=True)
    texts = {shape.text: shape for shape in figure.shapes if isinstance(shape, Label)}
    assert {"dense: 10", "a", "b", "perplexity"} <= set(texts)
    low, high = (next(s for s in figure.shapes if isinstance(s, Label) and s.text == text) for text in ("20", "50"))
    marks = [shape for shape in figure.shapes if isinstance(shape, Disc)]
    # those of the first series: in the legend, at 20, and at 80
    (_, first, second) = marks[:3]
    assert first.y == pytest.approx(low.y - 4, abs=0.5)
    assert second.y < high.y - 4


def test_every_colour_has_a_value_on_light_and_on_dark():
    rules = colour_rules()
    for name, (light, dark) in PALETTE.items():
        assert light != dark
        assert f"--{name}:light-dark({light},{dark});" in rules


# how linear red, green and blue look without one kind of cones, by Machado, Oliveira and Fernandes (2009)
VISION = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = [0.9505, 1.0, 1.089]


def lab(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen."""
    parts = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / WHITE, 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_without_one_kind_of_cones(vision, theme):
    series = [lab(PALETTE[f"c{number}"][theme], vision) for number in range(SERIES)]
    assert min(np.linalg.norm(one - two) for one, two in combinations(series, 2)) > 29
    lightness = [lab(PALETTE[f"s{step}"][theme], vision)[0] for step in range(STEPS)]
    steps = np.diff(lightness) * (1 if theme else -1)
    assert steps.min() > 4


def figures() -> list[Figure]:
    spread = Spread()
    spread.add(torch.logspace(-6, 0, 100), torch.arange(100) > 50)
    return [
        histograms("h", "<H> & $x$", {"mlp.<up>": spread, "none": Spread()}, masked=True),
        steps_chart("s", "S", "loss", [float(i % 7) + 1 for i in range(40)], "sample", logarithmic=False),
        quality_chart("q", "Q", "accuracy", {"a": [Point(0.5, 0.4, 0.3, 0.5, "t")]}, dense=None, logarithmic=False),
    ]


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_a_figure_by_itself_is_well_formed_and_needs_no_style_sheet(figure):
    root = ElementTree.fromstring(standalone_svg(figure))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].text == figure.title
    for element in root.iter():
        assert "class" not in element.attrib
        place = [element.attrib.get(name) for name in ("x", "y", "cx", "cy")]
        assert all(math.isfinite(float(value)) for value in place if value is not None)
    assert "nan" not in inline_svg(figure)


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_a_figure_is_drawn_as_png_with_the_same_bytes(figure, tmp_path):
    for name in ("a.png", "b.png"):
        png.write_png(figure, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == pytest.approx((figure.width * 200 / 96, figure.height * 200 / 96), abs=1)
    assert content == (tmp_path / "b.png").read_bytes()


def test_without_matplotlib_figures_are_svg_alone(home, model, tmp_path, monkeypatch, capsys):
    succeed("search", *model, *SEARCH, "--out", tmp_path / "run")
    monkeypatch.setattr(png, "find_spec", lambda name: None)
    capsys.readouterr()
    succeed("report", tmp_path / "run", "--out", tmp_path / "r.html", "--figures", tmp_path / "f")
    assert "SVG alone, since PNG needs matplotlib: pip install matplotlib" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "f").iterdir()} == {
        *("loss-run.svg", "threshold-run.svg", "scores-run.svg")
    }

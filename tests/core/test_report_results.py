"""Figures of quality: what compare, eval and perplexity write is read, anything else is refused with a sentence."""

from __future__ import annotations

import json
import math

import pytest
from _drawn import quick, values
from hypothesis import given
from hypothesis import strategies as st

from unipruning_core.compare import table as comparison
from unipruning_core.errors import ConfigError
from unipruning_core.evaluation import table as evaluation
from unipruning_core.report.content import content_of
from unipruning_core.report.gather import Gathered
from unipruning_core.report.measured import Known, known_models, read_results
from unipruning_core.report.svg import inline_svg

FACTS = {"nll": 1.0, "tokens": 3, "windows": 1, "per_window_nll": [1.0], "source": "/data/text.txt", "dtype": "float32"}


def lookup(name: str) -> Known:
    return Known("drift ria", 0.6, "60%/row") if name == "pruned" else Known(name, None, "")


def read(tmp_path, content: object):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "results.json").write_text(text)
    return read_results(tmp_path / "results.json", lookup)


def test_the_rows_of_a_comparison_are_read_but_not_those_of_broken_models(tmp_path):
    base = {"perplexity": 50.0, "low": 45.0, "high": 55.0, "pruned": 0.5}
    rows = [
        {**base, "method": "wanda", "sparsity": "50%/row"},
        {**base, "method": "wanda", "sparsity": "2:4", "low": None},
        {**base, "method": "ria", "sparsity": "90%/row", "perplexity": None},
    ]
    first, second = read(tmp_path, {"eval_text": "wikitext2", "rows": rows})
    assert (first.series, first.subject, first.sparsity, first.low, first.high) == (
        "wanda/row",
        "wikitext2",
        0.5,
        45,
        55,
    )
    assert (second.series, second.pattern, second.low) == ("wanda", "2:4", None)


def test_accuracies_are_read_with_their_errors(tmp_path):
    tasks = {
        "arc": {"acc_difference,none": -0.1, "acc,none": 0.5, "acc_stderr,none": 0.02},
        "odd": {"f1,none": 0.3},
        "no": {"alias": "x"},
    }
    texts = {"c4": {"windows": 8, "perplexity": 30.5, "perplexity_stderr": 0.5}, "w": {"perplexity": None}}
    about = {"model": "pruned", "fingerprint": "f", "tasks": tasks, "perplexity": texts}
    found = read(tmp_path, {"models": [about]})
    assert [(one.kind, one.subject, one.value, one.low, one.high) for one in found] == [
        ("accuracy", "arc", 0.5, 0.48, 0.52),
        ("accuracy", "odd", 0.3, None, None),
        ("perplexity", "c4", 30.5, 30.0, 31.0),
    ]
    assert {(one.series, one.sparsity, one.pattern) for one in found} == {("drift ria", 0.6, "60%/row")}


def test_what_eval_writes_is_read(tmp_path):
    rows = [
        evaluation.Row("arc", "acc,none", "pruned", 200, 0.5, 0.035, -0.1, 0.02),
        evaluation.Row("c4", "perplexity", "pruned", 8, 30.5, 0.5, 5.0, 0.1),
        evaluation.Row("wikitext2", "perplexity", "pruned", 8, math.inf, None, None, None),
    ]
    evaluation.write_results(tmp_path / "results.json", rows, {"pruned": "f"})
    found = read_results(tmp_path / "results.json", lookup)
    assert [(one.kind, one.subject, one.value, one.low, one.high) for one in found] == [
        ("accuracy", "arc", 0.5, pytest.approx(0.465), pytest.approx(0.535)),
        ("perplexity", "c4", 30.5, 30.0, 31.0),
    ]


def test_what_compare_writes_is_read(tmp_path):
    numbers = (50.0, 45.0, 55.0, 1.0, None, None, 50.0, 50.0, 1, 0.5, 0.4, 64, None, None, None, None)
    rows = [comparison.Row("dense", "", *numbers), comparison.Row("wanda", "50%/row", *numbers)]
    comparison.write_results(tmp_path / "results.json", rows, {"eval_text": "wikitext2"})
    found = read_results(tmp_path / "results.json", lookup)
    assert [(one.series, one.value, one.low, one.high, one.sparsity) for one in found] == [
        ("dense", 50.0, 45.0, 55.0, 0.5),
        ("wanda/row", 50.0, 45.0, 55.0, 0.5),
    ]


def test_the_lines_of_perplexity_are_read(tmp_path):
    lines = [json.dumps({"model": name, "perplexity": 20.0 + n, **FACTS}) for n, name in enumerate(["pruned", "other"])]
    found = read(tmp_path, "\n".join(lines) + "\n")
    assert [(one.model, one.value, one.sparsity) for one in found] == [("pruned", 20.0, 0.6), ("other", 21.0, None)]
    assert {one.subject for one in found} == {"text.txt"}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "3", "nonsense", '{"rows": 3}', '{"rows": [{}]}', '{"models": [3]}']
)
def test_what_has_no_figures_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match="hold no figures that are known; pass the results"):
        read(tmp_path, content)


LEAVES = values | st.floats(0, 1) | st.sampled_from(["2:4", "50%/row", "wanda"])
ROW = st.fixed_dictionaries(
    {"perplexity": LEAVES, "pruned": LEAVES, "method": LEAVES, "sparsity": LEAVES},
    optional={"low": LEAVES, "high": LEAVES},
)
TASK = st.dictionaries(st.sampled_from(["acc,none", "acc_stderr,none", "f1,none", "alias"]), LEAVES)
MODEL = st.fixed_dictionaries(
    {"model": st.sampled_from(["pruned", "dense"])},
    optional={
        "tasks": LEAVES | st.dictionaries(st.sampled_from(["arc", "piqa"]), TASK | LEAVES),
        "perplexity": LEAVES | st.dictionaries(st.sampled_from(["c4"]), ROW | LEAVES),
    },
)
JSON = (
    st.fixed_dictionaries({"rows": st.lists(ROW, max_size=3) | LEAVES})
    | st.fixed_dictionaries({"models": st.lists(MODEL | LEAVES, max_size=3)})
    | st.fixed_dictionaries({"per_window_nll": LEAVES, "perplexity": LEAVES}, optional={"source": LEAVES})
)


@quick
@given(JSON)
def test_whatever_a_file_holds_is_drawn_or_refused_with_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        found = read_results(path, lookup)
    except ConfigError:
        return
    drawn = content_of(Gathered((), (), {}), found, [path])
    assert all("nan" not in inline_svg(figure) for figure in drawn.figures)


def test_a_model_is_known_by_its_path_by_its_report_or_as_the_dense_one(tmp_path, monkeypatch):
    for name in ("a", "dense"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    look = known_models({"a": Known("wanda", 0.5, "50%")}, str(tmp_path / "dense"))
    assert look(str(tmp_path / "a")) == Known("wanda", 0.5, "50%")
    assert look("dense").series == "dense"
    assert look("dense").sparsity == 0
    assert look("gone").sparsity is None

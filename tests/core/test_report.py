"""Reports: what is read of run folders and checkpoints, the page, its commands, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import pytest
from _folders import SEARCH, succeed

from unipruning_core.cli.main import main
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.report import read_report
from unipruning_core.report.content import content_of
from unipruning_core.report.folders import find_folders
from unipruning_core.report.gather import Gathered, Pruned, gather
from unipruning_core.report.job import LARGEST
from unipruning_core.report.page import render
from unipruning_core.search.run_folder import Run
from unipruning_core.storage.documents import sealed, unsealed


@pytest.fixture(scope="module")
def made(home, model, tmp_path_factory):
    """A search in each of two modes, and checkpoints of the first in ``out``."""
    folder = tmp_path_factory.mktemp("report")
    succeed("search", *model, *SEARCH, "--learning-rate", "2e-4", "--exclude", "re:.*k_proj.*", "--out", folder / "run")
    succeed("search", *model, *SEARCH, "--mode", "frozen", "--out", folder / "frozen")
    both = ("--sparsity", "60%", "--sparsity", "2:4", "--sparsity", "2:4+dense@20%")
    succeed("project", home / "model", folder / "run", *both, "--out", folder / "out")
    return folder


@pytest.fixture(scope="module")
def gathered(made):
    return gather(find_folders([made / "run", made / "out"]), Progress())


def sections(page: Path) -> dict[str, str]:
    parts = re.findall(r'<section id="(\w+)">(.*?)</section>', page.read_text(encoding="utf-8"), re.S)
    return dict(parts)


def rows_of(section: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of a table, by the words over its columns."""
    table = re.findall(r"<table>(.*?)</table>", section, re.S)[number]
    heads = re.findall(r'<button type="button">(.*?)</button>', table)
    lines = [re.findall(r"<td[^>]*>([^<]*)", line) for line in table.split("<tr>")[2:]]
    return [dict(zip(heads, map(unescape, map(str.strip, cells)), strict=True)) for cells in lines]


def test_what_a_matrix_lost_is_the_sum_of_its_pruned_scores_of_all(made, gathered):
    run = Run.open(made / "run")
    for output in gathered.outputs:
        masks = read_masks(output.path)
        pruned_of_all, all_of_all = 0.0, 0.0
        for target in run.targets:
            score, mask = run.score(target.name).double(), masks.read(target.name)
            assert output.lost[target.name] == pytest.approx((float(score[~mask].sum()), float(score.sum())))
            pruned_of_all, all_of_all = pruned_of_all + float(score[~mask].sum()), all_of_all + float(score.sum())
        assert output.lost_of_all == pytest.approx(pruned_of_all / all_of_all)
        assert 0 < output.lost_of_all < output.sparsity


def test_the_tables_have_the_counts_of_the_checkpoints(made, tmp_path):
    succeed("report", made / "run", made / "out", "--out", tmp_path / "r.html")
    found = sections(tmp_path / "r.html")
    for number, slug in enumerate(["2-4", "2-4+dense-at-20", "60"]):
        report = read_report(made / "out" / slug)
        assert rows_of(found["overview"])[number]["checkpoint"] == f"out/{slug}"
        assert rows_of(found["overview"])[number]["pruned"] == f"{100 * report['overall']['sparsity']:.2f} %"
        rows = rows_of(found["matrices"], number)
        assert len(rows) == len(report["matrices"]) == 12
        for row in rows:
            entry = report["matrices"][f"model.layers.{row['layer']}.{row['projection']}.weight"]
            shown = [row[name] for name in ("kept", "weights", "empty rows", "empty columns", "asked")]
            counted = [entry[name] for name in ("kept", "total", "empty_rows", "empty_columns", "asked")]
            assert shown == list(map(str, counted))


def test_what_stays_dense_is_said_with_its_reason(made, tmp_path):
    succeed("report", made / "run", made / "out", "--out", tmp_path / "r.html")
    rows = {row["weights"]: (row["matrices"], row["why"]) for row in rows_of(sections(tmp_path / "r.html")["dense"])}
    assert rows["model.embed_tokens.weight"] == ("1", "an embedding")
    number, why = rows["model.layers.*.self_attn.k_proj.weight"]
    assert number == "2"
    assert "re:.*k_proj.*" in why
    report = read_report(made / "out" / "2-4+dense-at-20")
    whole = [name for name, entry in report["matrices"].items() if entry["kept"] == entry["total"]]
    assert (
        sum(int(number) for number, why in rows.values() if "keeps all of it, as dense asks" in why) == len(whole) > 0
    )


def test_the_commands_on_the_page_repeat_search_and_projection(made, tmp_path):
    succeed("report", made / "run", made / "out", "--out", tmp_path / "r.html")
    code = unescape(re.search(r"<code>(.*?)</code>", sections(tmp_path / "r.html")["commands"], re.S)[1])
    search, *projections, _ = [shlex.split(line)[1:] for line in code.splitlines()]
    assert len(projections) == 3
    succeed(*search[:-1], tmp_path / "again")
    for name in ("run.json", "dual.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (made / "run" / name).read_bytes()
    for number, words in enumerate(projections):
        succeed(*words[:-1], tmp_path / str(number))
        again, first = read_report(tmp_path / str(number)), read_report(Path(words[-1]))
        assert again == first


def test_the_same_folders_give_the_same_page(made, tmp_path):
    words = ("report", made / "run", made / "out", "--results", made / "results.json", "--out")
    (made / "results.json").write_text(json.dumps({"models": [{"model": "m", "tasks": {"t": {"acc,none": 0.5}}}]}))
    succeed(*words, tmp_path / "a.html")
    succeed(*words, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_checkpoint_alone_has_no_scores_and_a_search_alone_no_map(made, tmp_path):
    succeed("report", made / "out" / "60", "--out", tmp_path / "out.html")
    assert set(sections(tmp_path / "out.html")) == {
        *("overview", "sparsity", "dense", "matrices", "provenance", "commands")
    }
    succeed("report", made / "run", "--out", tmp_path / "run.html")
    assert set(sections(tmp_path / "run.html")) == {"search", "scores", "dense", "provenance", "commands"}
    succeed("report", made / "frozen", "--out", tmp_path / "frozen.html")
    assert "search" not in sections(tmp_path / "frozen.html")


def test_a_search_without_a_score_above_zero_has_lost_nothing_that_is_known(home, model, tmp_path):
    far = ("--mode", "coupled", "--soft-threshold", "1e9")
    succeed("search", *model, *SEARCH, *far, "--out", tmp_path / "run")
    succeed("project", home / "model", tmp_path / "run", "--sparsity", "50%", "--out", tmp_path / "out")
    succeed("report", tmp_path / "run", tmp_path / "out", "--out", tmp_path / "r.html")
    assert {"scores", "sparsity"} <= set(sections(tmp_path / "r.html")) - {"lost"} == set(sections(tmp_path / "r.html"))


def test_scores_of_another_search_are_not_taken_for_those_of_a_checkpoint(made, tmp_path):
    succeed("report", made / "frozen", made / "out", "--out", tmp_path / "r.html")
    assert "lost" not in sections(tmp_path / "r.html")
    assert {row["scores lost"] for row in rows_of(sections(tmp_path / "r.html")["overview"])} == {"-"}


def test_loss_and_threshold_of_each_step_are_drawn(made, gathered):
    figures = {figure.name: figure for figure in content_of(gathered, [], []).figures}
    run = Run.open(made / "run").description
    for name, values in [("loss-run", run["losses"]), ("threshold-run", run["threshold_trace"])]:
        line = next(shape for shape in figures[name].shapes if getattr(shape, "stroke", "") == "c0")
        heights = [y for _, y in line.points]
        drawn = [value for value in values if value > 0 or name == "loss-run"]
        assert len(heights) in (len(values), len(drawn))
        # what is larger stands higher
        order = sorted(range(len(drawn)), key=lambda number: drawn[number])
        shown = heights[-len(drawn) :]
        assert order == sorted(range(len(shown)), key=lambda number: -shown[number])


def test_names_that_look_like_tags_do_no_harm(made, tmp_path):
    odd = tmp_path / "<b>&'x\""
    odd.mkdir()
    shutil.copytree(made / "out" / "60", odd / "60")
    succeed("report", odd / "60", made / "run", "--out", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_a_large_model_at_three_sparsities_fits_the_page():
    """126 layers of seven projections, as the largest dense models have."""
    projections = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    matrices, lost = {}, {}
    for layer in range(126):
        for number, projection in enumerate(projections):
            name = f"model.layers.{layer}.{projection}.weight"
            kept = 100_000_000 + 1_234_567 * (layer + number)
            counts = {"kept": kept, "total": 435_154_944, "sparsity": 1 - kept / 435_154_944}
            matrices[name] = {"asked": "50%/global", **counts, "empty_rows": 123, "empty_columns": 4567}
            lost[name] = (1.0 + layer + number, 1000.0)
    overall = {"sparsity": 0.5, "zero_share": 0.5, "empty_rows": 0, "empty_columns": 0}
    report = {"sparsity": "50%/global", "overall": overall, "matrices": matrices, "provenance": {"model": {}}}
    outputs = [Pruned(Path(f"out/{number}"), f"out/{number}", report, None, None, lost) for number in range(3)]
    content = content_of(Gathered((), tuple(outputs), {}), [], [])
    assert len(content.figures) == 6
    assert len(render(content).encode()) < LARGEST


def test_what_cannot_be_shown_is_refused(made, home, tmp_path, refused):
    out = ("--out", tmp_path / "r.html")
    assert "has neither run.json nor unipruning.json; pass folders" in refused("report", home / "model", *out)
    assert "has neither run.json" in refused("report", tmp_path / "nowhere", *out)
    assert "is given twice; pass it once" in refused("report", made / "out", made / "out" / "60", *out)
    (tmp_path / "x.json").write_text("[1]")
    assert "hold no figures that are known" in refused("report", made / "run", "--results", tmp_path / "x.json", *out)
    assert "cannot be read" in refused("report", made / "run", "--results", tmp_path / "none.json", *out)
    assert "overlap" in refused("report", made / "run", "--out", made / "run" / "r.html")
    assert "exists; choose another" in refused("report", made / "run", "--out", tmp_path)
    assert not (tmp_path / "r.html").exists()


def test_a_report_of_two_models_is_refused(made, tmp_path, refused):
    run = shutil.copytree(made / "run", tmp_path / "run")
    document = unsealed(json.loads((run / "run.json").read_text()))
    document["model"]["fingerprint"] = "0" * 64
    (run / "run.json").write_text(json.dumps(sealed(document)))
    message = refused("report", run, made / "out", "--out", tmp_path / "r.html")
    assert "a report is of one model, and" in message


def test_a_page_is_replaced_only_where_that_is_asked_for(made, tmp_path, refused):
    page = tmp_path / "r.html"
    page.write_text("mine")
    assert "exists; choose another, or pass --overwrite" in refused("report", made / "run", "--out", page)
    assert page.read_text() == "mine"
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine").touch()
    words = ("report", made / "run", "--out", tmp_path / "n.html", "--figures", tmp_path / "figures")
    assert "figures' exists; choose another" in refused(*words)
    assert main(list(map(str, ("report", made / "run", "--out", page, "--overwrite")))) == 0
    assert page.read_text().startswith("<!doctype html>")


def test_a_page_that_is_too_large_is_refused(made, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("unipruning_core.report.job.LARGEST", 20_000)
    message = refused("report", made / "run", made / "out", "--out", tmp_path / "r.html")
    assert "more than 0.02 MB; pass fewer folders at a time" in message
    assert not (tmp_path / "r.html").exists()

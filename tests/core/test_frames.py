"""Masks and results as data frames, and as a notebook shows them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning

SHORT = {"samples": 3, "seq_len": 16, "progress": False}


@pytest.fixture(scope="module")
def written(home, tmp_path_factory):
    """Two checkpoints and their run folder."""
    out = tmp_path_factory.mktemp("frames") / "out"
    return unipruning.prune(
        home / "model", sparsity=["60%/row", "2:4"], data=str(home / "text.txt"), out=out, overwrite=True, **SHORT
    )


def test_masks_of_a_checkpoint_are_a_mapping_and_a_table(written):
    masks = unipruning.read_masks(written[0].path)
    frame = masks.to_frame()
    assert list(frame.columns) == ["target", "rows", "columns", "pattern", "kept", "total", "sparsity"]
    assert list(frame.target) == list(masks) == [target.name for target in masks.targets]
    assert len(masks) == len(frame)
    for row in frame.itertuples():
        mask = masks[row.target]
        assert torch.equal(mask, masks.read(row.target))
        assert (row.kept, row.total, (row.rows, row.columns)) == (int(mask.sum()), mask.numel(), mask.shape)
        assert row.sparsity == 1 - row.kept / row.total
    assert "model.layers.0.mlp.up_proj.weight" in masks
    assert "lm_head.weight" not in masks
    with pytest.raises(KeyError, match=r"lm_head\.weight"):
        masks["lm_head.weight"]
    patterns = unipruning.read_masks(written[1].path).to_frame().pattern
    assert (set(frame.pattern), set(patterns)) == ({"unstructured"}, {"2:4"})


def test_masks_in_memory_are_a_table(home):
    model, tokenizer = (kind.from_pretrained(home / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    scores = unipruning.search(model, tokenizer, data=str(home / "text.txt"), **SHORT)
    masks = unipruning.project(model, scores, sparsity="60%/row", progress=False)
    frame = masks.to_frame()
    assert isinstance(masks, dict)
    assert list(frame.parameter) == list(masks)
    assert list(frame.kept) == [int(mask.sum()) for mask in masks.values()]
    assert list(scores.to_frame().threshold) == list(scores.thresholds.values())


def test_results_are_rows(home, written):
    import pandas

    frame = pandas.concat(one.to_frame() for one in written)
    assert list(frame.sparsity) == ["60%/row", "2:4"]
    assert list(frame.path) == [str(one.path) for one in written]
    assert list(frame.ratio) == [one.pruned / one.total for one in written]
    run = unipruning.Run.open(written[0].path.parent.with_name("out-run"))
    assert list(run.to_frame().target) == [target.name for target in run.targets]
    found = unipruning.perplexity(home / "model", data=str(home / "text.txt"), seq_len=32, windows=2, progress=False)
    (row,) = found.to_frame().itertuples()
    assert (row.perplexity, row.windows, row.seq_len) == (found.perplexity, 2, 32)
    checked = unipruning.check_zeros(written[1].path, written[1].path, progress=False)
    assert list(checked.to_frame().still_zero) == [one.still_zero for one in checked.matrices]
    assert set(checked.to_frame().broken_groups) == {0}


def test_a_notebook_shows_a_table(written):
    html = unipruning.read_masks(written[0].path)._repr_html_()
    assert "<table" in html
    assert "model.layers.0.mlp.up_proj.weight" in html


def test_pandas_is_imported_by_who_asks_for_a_table(written):
    code = (
        f"import sys, unipruning; unipruning.read_masks({str(written[0].path)!r}); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

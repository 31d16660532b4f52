"""Output rows and input columns that a mask removes whole: counted in the report, and told once."""

import json

import pytest
import torch
from _checkpoints import FakeScores, parsed, save_llama
from hypothesis import given
from hypothesis import strategies as st

import unipruning
from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.projection.empty import Empty
from unipruning_core.projection.project import project
from unipruning_core.projection.report import EMPTY, REPORT_FILE, read_report
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.documents import sealed
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
# of a matrix of 24 inputs
ROWS, COLUMNS = 3, 5


class Uneven(FakeScores):
    """Scores by which the down projections lose three rows and the query projections five columns."""

    def score(self, name):
        score = super().score(name) + 1
        if "down_proj" in name:
            score[2 : 2 + ROWS] = 1e-3
        if "q_proj" in name:
            score[:, 4 : 4 + COLUMNS] = 1e-3
        return score


class Noting(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("llama")))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**31))
def test_a_row_or_column_without_a_kept_weight_is_counted(rows, columns, ratio, seed):
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < ratio
    without = [sum(not any(line) for line in side.tolist()) for side in (mask, mask.t())]
    for strided in (mask, mask.t().contiguous().t()):
        assert Empty.of(strided) == Empty(*without)


def test_they_are_counted_by_matrix_and_overall_and_told_in_one_sentence(llama, tmp_path):
    scores, progress = Uneven(llama), Noting()
    (result,) = project(llama, scores, parsed("40%"), tmp_path / "out", BACKEND, progress=progress)
    report = read_report(tmp_path / "out")
    for name, counts in report["matrices"].items():
        expected = (ROWS if "down_proj" in name else 0, COLUMNS if "q_proj" in name else 0)
        assert tuple(counts[key] for key in EMPTY) == expected, name
    assert tuple(report["overall"][key] for key in EMPTY) == (2 * ROWS, 2 * COLUMNS)
    assert (result.empty_rows, result.empty_columns) == (2 * ROWS, 2 * COLUMNS)
    rows, columns = (sum(target.shape[side] for target in scores.targets) for side in (0, 1))
    assert progress.notes == [
        f"40%/matrix: the masks remove 6 of {rows} output rows and 10 of {columns} input columns whole; such outputs"
        " are always zero, and NaN after some float8 quantisers: --keep-per-row 1 keeps a weight of each row"
    ]


def test_columns_alone_are_told_without_a_word_of_rows(llama, tmp_path):
    progress = Noting()
    targets = tuple(target for target in Uneven(llama).targets if "q_proj" in target.name)
    project(llama, Uneven(llama, targets), parsed("40%"), tmp_path / "out", BACKEND, progress=progress)
    assert progress.notes == ["40%/matrix: the masks remove 10 of 48 input columns whole, so these inputs are unused"]


def test_a_model_in_memory_is_told_the_same(home, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, told = home / "model", []
    for model in (str(folder), AutoModelForCausalLM.from_pretrained(folder)):
        progress = Noting()
        out = {"out": tmp_path / "out"} if isinstance(model, str) else {}
        unipruning.project(model, Uneven(Checkpoint.open(folder)), sparsity="40%/matrix", progress=progress, **out)
        told.append([note for note in progress.notes if "whole" in note])
    assert told[0] == told[1] != []


def test_a_report_that_counts_none_is_of_an_earlier_version_and_read(llama, tmp_path):
    project(llama, Uneven(llama), parsed("40%"), tmp_path / "out", BACKEND)
    path = tmp_path / "out" / REPORT_FILE
    report = json.loads(path.read_text())
    del report["checksum"]
    for counts in (report["overall"], *report["matrices"].values()):
        for key in EMPTY:
            del counts[key]
    path.write_text(json.dumps(sealed(report)))
    assert read_report(path.parent)["overall"].keys().isdisjoint(EMPTY)
    report["overall"][EMPTY[0]] = 0
    path.write_text(json.dumps(sealed(report)))
    with pytest.raises(CheckpointError, match="'empty_rows' is missing"):
        read_report(path.parent)

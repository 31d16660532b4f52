import json
from dataclasses import replace

import pytest
import torch

from unipruning_core.errors import RunError
from unipruning_core.search.base import Outcome
from unipruning_core.search.run_folder import DUAL_FILE, INPUTS_FILE, RUN_FILE, Run, write_run
from unipruning_core.storage.checkpoint import Target

TARGETS = [Target("a.weight", (3, 8)), Target("b.weight", (5, 4), transposed=True)]
DESCRIPTION = {"settings": {}, "model": {"fingerprint": "f"}, "data": {}, "backend": "cpu", "versions": {}}


def outcomes():
    generator = torch.Generator().manual_seed(0)
    for target in TARGETS:
        dual, norm = (torch.randn(shape, generator=generator) for shape in (target.shape, target.shape[1]))
        yield Outcome(target, dual, torch.tensor(0.1), 7, norm)


def outcomes_without_norms():
    for outcome in outcomes():
        yield replace(outcome, input_norm=None)


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, TARGETS, outcomes(), DESCRIPTION)
    return tmp_path


def test_a_run_reads_back_targets_and_the_magnitude_of_gamma(folder):
    run = Run.open(folder)
    assert list(run.targets) == TARGETS
    assert run.fingerprint == "f"
    for outcome in outcomes():
        gamma = torch.nn.functional.softshrink(outcome.dual, float(outcome.threshold))
        assert torch.equal(run.score(outcome.target.name), gamma.abs())


def test_a_run_reads_back_the_input_norms_where_the_search_knew_them(folder, tmp_path_factory):
    norms = Run.open(folder).input_norms
    assert list(norms) == [target.name for target in TARGETS]
    for outcome in outcomes():
        assert torch.equal(norms[outcome.target.name], outcome.input_norm)
    other = tmp_path_factory.mktemp("other")
    write_run(other, TARGETS, outcomes_without_norms(), DESCRIPTION)
    assert {path.name for path in other.iterdir()} == {RUN_FILE, DUAL_FILE}
    with pytest.raises(RunError, match="holds no input norms; search with '--mode frozen'"):
        _ = Run.open(other).input_norms


def test_the_same_search_gives_the_same_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_run(other, TARGETS, outcomes(), DESCRIPTION)
    for name in (RUN_FILE, DUAL_FILE, INPUTS_FILE):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("name", [RUN_FILE, DUAL_FILE, INPUTS_FILE])
def test_a_flipped_bit_anywhere_is_noticed(folder, name):
    original = (folder / name).read_bytes()
    for position in range(0, len(original), 7):
        changed = bytearray(original)
        changed[position] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(RunError, match=r"damaged|of format|lacks"):
            Run.open(folder)


@pytest.mark.parametrize("name", [RUN_FILE, DUAL_FILE, INPUTS_FILE])
def test_a_truncated_file_is_noticed(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-9])
    with pytest.raises(RunError, match="damaged"):
        Run.open(folder)


def test_a_folder_without_a_manifest_is_an_unfinished_search(folder):
    (folder / RUN_FILE).unlink()
    with pytest.raises(RunError, match="has not finished; repeat the 'unipruning search' command"):
        Run.open(folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere' does not exist; make it with"):
        Run.open(tmp_path / "nowhere")


def test_a_run_of_another_format_is_refused(folder):
    content = json.loads((folder / RUN_FILE).read_text())
    content["format"] = "unipruning-run/99"
    (folder / RUN_FILE).write_text(json.dumps(content))
    with pytest.raises(RunError, match="of format 'unipruning-run/99'"):
        Run.open(folder)


def test_outcomes_that_do_not_match_the_targets_leave_no_finished_run(tmp_path):
    with pytest.raises(ValueError, match="announced"):
        write_run(tmp_path, TARGETS[::-1], outcomes(), DESCRIPTION)
    with pytest.raises(RunError):
        Run.open(tmp_path)

"""Mixtures of experts from search to pruned checkpoint, in every layout of the files."""

import dataclasses

import pytest
import torch
from _checkpoints import save_text, save_tokenizer
from _mixtures import EXPERTS, LAYOUTS, save_mixture

import unipruning
from unipruning_core.errors import RunError
from unipruning_core.progress import Progress
from unipruning_core.projection.project import project
from unipruning_core.search.run_folder import Run
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target, place_of
from unipruning_cpu.backend import CpuBackend

SPARSITIES = ["60%/global", "50%/row", "2:4"]


@pytest.fixture(scope="module", params=LAYOUTS)
def pruned(request, tmp_path_factory):
    """A folder with ``model``, the run folder ``out-run`` and pruned checkpoints in ``out``."""
    folder = tmp_path_factory.mktemp(request.param)
    save_mixture(folder / "model", request.param)
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    unipruning.prune(
        str(folder / "model"),
        sparsity=SPARSITIES,
        out=folder / "out",
        data=str(folder / "text.txt"),
        samples=4,
        seq_len=32,
        progress=False,
    )
    return folder


def test_every_tensor_is_the_original_times_its_masks(pruned):
    before = Checkpoint.open(pruned / "model")
    for name in ("60-global", "50-row", "2-4"):
        after, masks = Checkpoint.open(pruned / "out" / name), unipruning.read_masks(pruned / "out" / name, False)
        expected = {name: before.read(name) for name in before.tensors}
        for target in masks.targets:
            mask = masks.read(target.name)
            stored = (mask.t() if target.transposed else mask).flatten()
            expected[target.tensor].view(-1)[target.start : target.start + target.size] *= stored
        assert all(torch.equal(after.read(name), expected[name]) for name in expected)


def test_counts_are_exact_and_groups_lie_along_the_inputs_of_each_expert(pruned):
    masks = {name: unipruning.read_masks(pruned / "out" / name, False) for name in ("60-global", "50-row", "2-4")}
    total = sum(target.size for target in masks["2-4"].targets)
    kept = sum(int(masks["60-global"].read(target.name).sum()) for target in masks["60-global"].targets)
    assert kept == round(0.4 * total)
    for target in masks["2-4"].targets:
        assert bool((masks["50-row"].read(target.name).sum(1) == target.shape[1] // 2).all())
        groups = masks["2-4"].read(target.name).view(target.shape[0], -1, 4)
        assert bool((groups.sum(2) == 2).all())


def test_experts_are_most_of_the_targets(pruned):
    run = Run.open(pruned / "out-run")
    of_experts = [target for target in run.targets if "experts" in target.name or "_linear" in target.name]
    assert sum(target.size for target in of_experts) == 2 * EXPERTS * 3 * 24 * 32


@pytest.mark.parametrize("start", [1, 1 << 40])
def test_a_run_whose_targets_overlap_or_leave_their_tensor_is_refused(pruned, start, tmp_path):
    run = Run.open(pruned / "out-run")
    if run.targets[0].within is None:
        moved = [dataclasses.replace(run.targets[0], within=run.targets[0].name, start=start), *run.targets[1:]]
    else:
        moved = [run.targets[0], dataclasses.replace(run.targets[1], start=start), *run.targets[2:]]
    object.__setattr__(run, "targets", tuple(moved))
    with pytest.raises(RunError, match="does not fit in"):
        project(
            Checkpoint.open(pruned / "model"),
            run,
            [parse_sparsity("50%")],
            tmp_path / "out",
            CpuBackend(),
            progress=Progress(),
        )
    assert not (tmp_path / "out").exists()


def test_the_place_of_a_target_is_read_back_as_it_was_written():
    whole, part = Target("a", (2, 3)), Target("t.1", (2, 3), True, "t", 6)
    assert place_of(whole.place) == (None, 0)
    assert place_of(part.place) == ("t", 6)
    for wrong in ({"within": "t"}, {"within": "t", "start": -1}, {"within": 3, "start": 0}):
        with pytest.raises(ValueError, match=r"'start'|'within'"):
            place_of(wrong)

"""Selection over ranks against a stable sort of everything laid end to end, in real process groups."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from _ranks import select

SHAPES = ((3, 5), (1, 1), (7, 4), (2, 8), (5, 6), (1, 9))
# which rank holds which tensors; with four ranks the third holds none
SHARDS = {1: [(0, 6)], 2: [(0, 2), (2, 6)], 4: [(0, 1), (1, 4), (4, 4), (4, 6)]}
KINDS = {
    "spread": lambda score: score,
    "three values": lambda score: (score * 1.5).round().clamp(-1, 1),
    "all equal": lambda score: torch.full_like(score, -2.5),
    "all zero": lambda score: torch.zeros_like(score).copysign(score),
    "subnormal": lambda score: score * 1e-43,
}
COUNTERS = [2048, 1024, 1024]  # of each pass, for one number to keep


def scores_of(kind: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [KINDS[kind](torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.fixture(scope="module")
def forks() -> BaseContext:
    """Processes forked from one that has imported torch, which takes seconds, and has started no thread."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["unipruning_core.selection.ranks", "unipruning_cpu.backend"])
    return context


@pytest.fixture(scope="module", params=SHARDS, ids=lambda world: f"{world} ranks")
def outcomes(
    request: pytest.FixtureRequest, forks: BaseContext, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """Return the results of each rank, after all have succeeded."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    shards = SHARDS[request.param]
    for rank, (start, end) in enumerate(shards):
        torch.save({kind: scores_of(kind)[start:end] for kind in KINDS}, folder / f"{rank}.pt")
    with ProcessPoolExecutor(len(shards), mp_context=forks) as pool:
        for rank in [pool.submit(select, rank, len(shards), folder) for rank in range(len(shards))]:
            rank.result()
    return [torch.load(folder / f"{rank}.out") for rank in range(len(shards))]


def test_the_masks_of_all_ranks_are_those_of_a_stable_sort(outcomes):
    for kind in KINDS:
        magnitude = torch.cat([score.flatten() for score in scores_of(kind)]).abs()
        order = magnitude.sort(descending=True, stable=True).indices
        assert len(outcomes[0]["masks"][kind]) == len(order) + 1
        for keep in range(len(order) + 1):
            wanted = torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[:keep], True)
            parts = [mask.flatten() for outcome in outcomes for mask in outcome["masks"][kind][keep]]
            assert torch.equal(torch.cat(parts), wanted), f"{kind}: the masks that keep {keep} differ"


def test_one_selection_reads_the_scores_three_times_and_sends_only_counters(outcomes):
    for outcome in outcomes:
        assert outcome["sent"][:4] == ([*COUNTERS, len(outcomes)] if len(outcomes) > 1 else [])
        assert outcome["passes"] == 3 + 1  # and one for the selection that was refused


def test_a_number_that_no_rank_can_keep_is_refused_on_all_of_them(outcomes):
    assert {outcome["refused"] for outcome in outcomes} == {"cannot keep 100 of 99 elements"}

r"""Budgets from a search: one sparsity ratio divided among decoder blocks, or among rows.

**OWL** (Yin et al., arXiv 2310.05175).  For the Wanda scores :math:`A_{ij} = |W_{ij}| n_j` of all matrices of block l

.. math:: D_l = \frac{\#\{A > M \bar A_l\}}{\#A}, \qquad
          k_l = (1 - p) + 2 \lambda \frac{D_l - \overline{D}}{\max D - \min D}

D is the outlier ratio (M = 5) and k the fraction kept of each row of each matrix of the block, as in Wanda.  The mean
of k is 1 - p exactly; :math:`\overline D` is weighted by the sizes of the blocks, which are equal in most models.  The
paper asks for p_l in [p - lambda, p + lambda] (lambda = 0.08) with mean p; like its authors' experiments we scale to a
range of width 2 lambda, which is off-centre where the ratios are skewed.

**Fisher row budgets**.  The Fisher mass of a row is the squared first-order change of the loss,
:math:`m_i = \sum_j E[(W_{ij} g_{ij})^2]`: the diagonal Fisher information times the squared weights.  Each matrix keeps
the fraction 1 - p, of which row i keeps

.. math:: k_i = \min(\max(c \sqrt{m_i}, (1 - p - \lambda) d), (1 - p + \lambda) d), \qquad \sum_i k_i = K

of its d weights, where K is the matrix's part of all kept weights.  The square root is our choice, since it minimises
:math:`\sum_i m_i / k_i` (Neyman's allocation), and so is the bound lambda = 0.08.  Row budgets by Fisher mass under
Wanda's scores are the idea of F-Wanda (arXiv 2608.00481), whose text was not available: this is not a reproduction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError, ConfigError, RunError
from unipruning_core.progress import Progress
from unipruning_core.projection.decide import Scores, check_weight, checked_score
from unipruning_core.sparsity.allocation import OUTLIER_MULTIPLE, SPREAD, check_multiple
from unipruning_core.sparsity.apportion import apportion
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import KeptRows, MatrixSparsity, Unstructured

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.search.run_folder import Run
    from unipruning_core.storage.checkpoint import Checkpoint, Target

LARGEST_PROPORTION = 1 << 40  # of the row with the largest mass; a whole number, so that division is exact
RATIO_DIGITS = 9  # decimals of a percentage in a budget file


@dataclass(frozen=True)
class Block:
    """One decoder block: the targets whose names start with its name."""

    name: str  # such as "model.layers.7"
    targets: tuple[Target, ...]

    @property
    def size(self) -> int:
        return sum(target.size for target in self.targets)


def blocks_of(targets: Sequence[Target]) -> list[Block]:
    """Group targets by decoder block, a name up to its first number, in the order of their first targets.

    Raises:
        CheckpointError: a target's name has no number.
    """
    by_block: dict[str, list[Target]] = {}
    for target in targets:
        name = re.match(r"(?:[^.]+\.)*?\d+(?=\.)", target.name)
        if name is None:
            raise CheckpointError(
                f"target {target.name!r} has no number in its name, so its decoder block is unknown; write the budget"
                " by hand"
            )
        by_block.setdefault(name[0], []).append(target)
    return [Block(name, tuple(members)) for name, members in by_block.items()]


def outlier_ratios(
    checkpoint: Checkpoint,
    input_norms: Mapping[str, Tensor],  # by target: (in,), float32, n
    targets: Sequence[Target],
    backend: Backend,
    *,
    multiple: float = OUTLIER_MULTIPLE,
    searched: Scores | None = None,
    progress: Progress | None = None,
) -> dict[str, Fraction]:
    """Return D_l by block, exact counts over the block's size; each matrix is read twice, one at a time.

    Raises:
        RunError: a weight is not the one that was ``searched``.
    """
    ratios = {}
    with (progress or Progress()).task("counting outliers", 2 * len(targets), "matrices") as task:

        def scores(block: Block) -> Iterator[Tensor]:
            for target in block.targets:
                stored = checkpoint.read_target(target)
                if searched is not None:
                    check_weight(searched, target, stored)
                stored = checkpoint.values_of(target)
                weight = (stored.t() if target.transposed else stored).to(backend.device_type)
                yield _wanda_score(weight, input_norms[target.name].to(backend.device_type), backend)
                task.advance()

        for block in blocks_of(targets):
            summed = sum(float(_row_sums(a, backend).cpu().double().sum()) for a in scores(block))
            threshold = torch.tensor(multiple * summed / block.size, dtype=torch.float32, device=backend.device_type)
            no_ties = torch.tensor(0, device=backend.device_type)
            above = sum(int(backend.threshold_mask(a, threshold, no_ties).sum()) for a in scores(block))
            ratios[block.name] = Fraction(above, block.size)
    return ratios


def owl_ratios(
    ratios: Mapping[str, Fraction],  # D by block
    sizes: Mapping[str, int],  # weights by block
    share: Fraction,  # p
    spread: Fraction = SPREAD,
) -> dict[str, Fraction]:
    """Return 1 - k_l by block: the sparsity ratio of each, with mean ``share`` exactly.

    Raises:
        ConfigError: the ratio of a block would be negative, or 1 or more.
    """
    mean = sum((ratio * sizes[name] for name, ratio in ratios.items()), Fraction(0)) / sum(sizes.values())
    width = max(ratios.values()) - min(ratios.values())
    slope = 2 * spread / width if width else Fraction(0)
    pruned = {name: share - slope * (ratio - mean) for name, ratio in ratios.items()}
    if not all(0 <= block_ratio < 1 for block_ratio in pruned.values()):
        raise ConfigError(
            f"a spread of {float(spread):g} around {str(Unstructured(share))!r} would prune blocks by"
            f" {float(min(pruned.values())):.1%} to {float(max(pruned.values())):.1%}; pass a smaller --spread"
        )
    return pruned


def owl(
    checkpoint: Checkpoint,
    run: Run,
    share: Fraction,
    backend: Backend,
    *,
    multiple: float = OUTLIER_MULTIPLE,
    spread: Fraction = SPREAD,
    progress: Progress | None = None,
) -> Budget:
    """Make OWL's budget from the input norms of a ``frozen`` search: one ratio for every row of a block.

    Raises:
        RunError: the run holds no input norms, or searched another model.
        ConfigError: the spread is too large for the ratio.
    """
    _check_model(checkpoint, run)
    _check_numbers(multiple, spread)
    ratios = outlier_ratios(
        checkpoint, run.input_norms, run.targets, backend, multiple=multiple, searched=run, progress=progress
    )
    sizes = {block.name: block.size for block in blocks_of(run.targets)}
    rules: list[tuple[str, MatrixSparsity]] = [
        (f"{name}.*", Unstructured(_written(pruned), "row"))
        for name, pruned in owl_ratios(ratios, sizes, share, spread).items()
    ]
    return Budget(f"owl-{Unstructured(share).slug}", tuple(rules), overall=share)


def fisher_rows(
    checkpoint: Checkpoint,
    run: Run,
    share: Fraction,
    backend: Backend,
    *,
    spread: Fraction = SPREAD,
    progress: Progress | None = None,
) -> Budget:
    """Make row budgets from a run whose scores are sqrt(F): ``--mode feedback --local-exponent 0``.

    With ``--ramp-sparsity 0 --learning-rate 0`` F is the diagonal Fisher term at the original weights.

    Raises:
        RunError: the scores of the run are not a Fisher term, or it searched another model.
    """
    _check_model(checkpoint, run)
    _check_numbers(OUTLIER_MULTIPLE, spread)
    settings = run.description["settings"]
    if settings.get("local_exponent") != 0:
        raise RunError(
            f"row budgets need a run whose scores are √F, but {str(run.folder)!r} was searched with mode"
            f" {settings['mode']!r} and local exponent {settings.get('local_exponent')!r}; search with '--mode feedback"
            " --local-exponent 0 --ramp-sparsity 0 --learning-rate 0'"
        )
    rules = tuple(_row_rules(run, share, spread, backend, progress or Progress()))
    return Budget(f"fisher-{Unstructured(share).slug}", rules, overall=share)


def _row_rules(
    scores: Scores, ratio: Fraction, spread: Fraction, backend: Backend, progress: Progress
) -> Iterator[tuple[str, MatrixSparsity]]:
    sizes = [target.size for target in scores.targets]
    totals = apportion(sizes, Unstructured(ratio).keep(sum(sizes)), [0] * len(sizes), sizes)
    with progress.task("summing rows", len(scores.targets), "matrices") as task:
        for target, total in zip(scores.targets, totals, strict=True):
            score = checked_score(scores, target).to(backend.device_type)
            masses = _row_sums(score * score, backend).cpu()
            yield target.name, KeptRows(tuple(row_budgets(masses, total, score.shape[1], ratio, spread)))
            task.advance()


def row_budgets(
    masses: Tensor,  # (out,), float32, >= 0, m
    total: int,  # K
    columns: int,  # d
    share: Fraction,  # p
    spread: Fraction = SPREAD,  # lambda
) -> list[int]:
    """Return k_i by row, whole numbers that sum to ``total``, ties to the lower row."""
    roots = masses.double().sqrt()
    # whole numbers make division fast and exact; a row with little or no mass keeps its lower bound
    largest = float(roots.max()) or 1.0
    proportions = (roots / largest * LARGEST_PROPORTION).round().long().clamp_min(1).tolist()
    lowest, highest = max(Fraction(0), 1 - share - spread), min(Fraction(1), 1 - share + spread)
    low, high = floor(lowest * columns), ceil(highest * columns)
    return apportion(proportions, total, [low] * len(proportions), [high] * len(proportions))


def _row_sums(matrix: Tensor, backend: Backend) -> Tensor:  # (out,), float32
    """Return the sum of abs(matrix) along each row."""
    rows, columns = matrix.shape
    return backend.abs_sums(matrix, matrix.new_ones(1, columns), matrix.new_ones(0, rows))[0][0]


def _wanda_score(weight: Tensor, norm: Tensor, backend: Backend) -> Tensor:  # (out, in), float32
    """Return abs(W) n, computed as one mirror step of size 1 from V = 0."""
    score = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    zeros = torch.zeros_like(norm)
    backend.mirror_step(
        score, weight, score.new_zeros(weight.shape[0]), zeros, norm, score.new_zeros(()), step_size=1.0, rank=None
    )
    return score


def _written(ratio: Fraction) -> Fraction:
    """Round a ratio to the decimals of a budget file; ``overall`` compensates for the rounding."""
    digits = 10 ** (RATIO_DIGITS + 2)
    return Fraction(round(ratio * digits), digits)


def _check_model(checkpoint: Checkpoint, run: Run) -> None:
    if run.fingerprint != checkpoint.fingerprint():
        raise RunError(
            f"the run was made from another model than {str(checkpoint.folder)!r}; pass the model it searched"
        )


def _check_numbers(multiple: float, spread: Fraction) -> None:
    check_multiple(multiple)
    if not 0 <= spread < 1:
        raise ConfigError(f"--spread must lie in [0, 1), not {float(spread):g}; the published value is 0.08")

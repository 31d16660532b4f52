"""Conformance of a whole three-step search on two matrices, operation by operation."""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS, Backend
from unipruning_core.testing.subject import Subject
from unipruning_kernels import reference

SHAPES = ((40, 96), (64, 64))
STEPS = 3


class ReferenceBackend(reference.Operations, Backend):
    name = "reference"
    device_type = "cpu"


def dyadic(rng: torch.Generator, shape: tuple[int, ...], largest: int) -> Tensor:
    """Multiples of 1/8: their sums are exact in any order, so that only a wrong operation can move a mask."""
    return torch.randint(-largest, largest + 1, shape, generator=rng) / 8


def search(backend: Backend, weights: list[Tensor], samples: list[list[Tensor]]) -> list[Tensor]:
    """Gamma of every matrix after the search, on the host."""
    device = backend.device_type
    duals = [torch.zeros(weight.shape, device=device) for weight in weights]
    thresholds = [torch.zeros((), device=device) for _ in weights]
    for sample in samples:
        for weight, x, dual, threshold in zip(weights, sample, duals, thresholds, strict=True):
            sumsq = torch.zeros(weight.shape[1], device=device)
            backend.accumulate_sumsq(x.to(device), sumsq)
            moved = weight.to(device)
            factors = torch.stack([torch.ones_like(sumsq), sumsq])
            whole = torch.ones(1, len(weight), device=device)
            (rows, weighted), (columns,) = (sums.cpu() for sums in backend.abs_sums(moved, factors, whole))
            # a saliency in the manner of ria; the division belongs to the host, so that it rounds alike for all
            norm = (sumsq.cpu() / x.shape[0]).sqrt()
            scale = weight.numel() / weighted.sum()
            r, p, q = 1.0 / rows, norm, scale * norm / columns
            backend.mirror_step(
                dual,
                moved,
                r.to(device),
                p.to(device),
                q.to(device),
                threshold,
                step_size=0.5,
                rank=weight.numel() // 10,
            )
    return [
        (dual.sign() * (dual.abs() - threshold).clamp_min(0.0)).cpu()
        for dual, threshold in zip(duals, thresholds, strict=True)
    ]


def largest_of_all(backend: Backend, scores: list[Tensor], keep: int) -> list[Tensor]:
    """The masks, on the host, of the ``keep`` largest magnitudes of all matrices together."""
    device = backend.device_type
    moved = [score.to(device) for score in scores]
    prefix, wanted = 0, keep
    for level, width in enumerate(DIGIT_BITS):
        counts = torch.zeros(2**width, dtype=torch.int64, device=device)
        for score in moved:
            backend.magnitude_histogram(score, torch.tensor(prefix, dtype=torch.int32, device=device), level, counts)
        at_least = counts.cpu().flip(0).cumsum(0).flip(0)
        digit = int((at_least >= wanted).nonzero()[-1])
        wanted -= int(at_least[digit + 1]) if digit + 1 < 2**width else 0
        prefix = (prefix << width) | digit
    threshold = torch.tensor(prefix, dtype=torch.int32).view(torch.float32)
    masks = []
    for score in scores:
        arguments = score.to(device), threshold.to(device), torch.tensor(wanted, device=device)
        masks.append(backend.threshold_mask(*arguments).cpu())
        wanted = max(0, wanted - int((score.abs() == threshold).sum()))
    return masks


def test_search_and_projection_give_the_masks_of_the_reference(subject: Subject, rng: torch.Generator) -> None:
    weights = [dyadic(rng, shape, 200).to(torch.bfloat16) for shape in SHAPES]
    samples = [[dyadic(rng, (32, shape[1]), 16) for shape in SHAPES] for _ in range(STEPS)]
    expected = search(ReferenceBackend(), weights, samples)
    actual = search(subject.backend, weights, samples)
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.equal(mine, theirs), f"Gamma of the {tuple(mine.shape)} matrix differs from the reference's"
    together = torch.cat([score.flatten() for score in expected]).abs().sort(descending=True, stable=True).indices
    # the second budget ends among the zeros that shrinkage made, which lie in both matrices
    for share in (0.4, 0.95):
        keep = round(share * len(together))
        masks = largest_of_all(subject.backend, actual, keep)
        whole = torch.zeros(len(together), dtype=torch.bool).index_fill_(0, together[:keep], True)
        assert torch.equal(torch.cat([mask.flatten() for mask in masks]), whole), f"the masks that keep {share} differ"
    for score in expected:
        subject.check("nm_mask", score, 2, 4)
        subject.check("topk_mask", score, score.shape[1] // 2)

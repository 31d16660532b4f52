"""Backends with one defect each in an operation of the feedback search."""

from __future__ import annotations

import torch
from torch import Tensor
from wrong_backends import Control

from unipruning_kernels import reference


class AddsNoiseOfHalfAnUlp(Control):
    def __init__(self) -> None:
        self.calls = 0

    def feedback_scores(self, *state, **numbers):
        self.calls += 1
        return reference.feedback_scores(*state, **numbers) * (1.0 + self.calls % 2 * 2.0**-22)


class LeavesTheTailUnwritten(Control):
    def feedback_scores(self, weight, *state, **numbers):
        score, end = torch.empty(weight.shape), weight.numel() // 4 * 4 - 1
        score.view(-1)[:end] = reference.feedback_scores(weight, *state, **numbers).view(-1)[:end]
        return score


class ReusesItsBuffer(Control):
    def __init__(self) -> None:
        self.buffers: dict[torch.Size, Tensor] = {}

    def feedback_scores(self, weight, *state, **numbers):
        buffer = self.buffers.setdefault(weight.shape, torch.zeros(weight.shape))
        return buffer.copy_(reference.feedback_scores(weight, *state, **numbers))


class ForgetsTheDrift(Control):
    def feedback_scores(self, weight, second, drift, *factors, **numbers):
        return reference.feedback_scores(weight, second, None, *factors, **numbers)


class ScoresTheWeightsThatStay(Control):
    def feedback_scores(self, *state, learning_rate, **numbers):
        return reference.feedback_scores(*state, learning_rate=0.0, **numbers)


class AliasesTheInput(Control):
    def feedback_scores(self, weight, *state, exponent, **numbers):
        score = reference.feedback_scores(weight, *state, exponent=exponent, **numbers)
        return weight.copy_(score) if exponent == 0.0 and weight.dtype == torch.float32 else score


class MasksWhatEqualsTheThreshold(Control):
    def mask_weight(self, weight, second, drift, r, p, q, threshold, sample, **options):
        above = torch.nextafter(threshold, threshold.new_tensor(torch.inf))
        return reference.mask_weight(weight, second, drift, r, p, q, above, sample, **options)


class MasksTheWeightsThatStay(Control):
    def mask_weight(self, weight, *state, **options):
        masked, kept = reference.mask_weight(weight, *state, **options)
        return torch.where(masked == 0, masked, weight), kept


class PacksFromTheHighestBit(Control):
    def mask_weight(self, *state, **options):
        masked, kept = reference.mask_weight(*state, **options)
        bits = (kept[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return masked, (bits.flip(2) << torch.arange(8, dtype=torch.uint8)).sum(2).to(torch.uint8)


class SetsTheBitsPastTheLastInput(Control):
    def mask_weight(self, weight, *state, **options):
        masked, kept = reference.mask_weight(weight, *state, **options)
        if used := weight.shape[1] % 8:
            kept[:, -1] |= 256 - (1 << used)
        return masked, kept


class DrawsRowByRow(Control):
    def mask_weight(self, weight, second, drift, r, p, q, threshold, sample, *, first, stride, **options):
        outcome = reference.mask_weight(
            *(weight, second, drift, r, p, q, threshold, sample), first=first, stride=stride, **options
        )
        rows = reference.feedback_scores(
            *(weight, second, drift, r, p, q), **{k: v for k, v in options.items() if k != "pattern"}
        )[:, first::stride].flatten()
        sample[: len(rows)] = rows[: len(sample)]
        return outcome


class DrawsFromTheTop(Control):
    def mask_weight(self, weight, second, drift, r, p, q, threshold, sample, *, first, stride, **options):
        every = sample.new_empty(-(-weight.numel() // stride))
        outcome = reference.mask_weight(
            *(weight, second, drift, r, p, q, threshold, every), first=0, stride=stride, **options
        )
        sample.copy_(every[: len(sample)])
        return outcome


class NeedsARow(Control):
    def remask_weight(self, weight, drift, kept, *, learning_rate):
        masked = reference.remask_weight(weight, drift, kept, learning_rate=learning_rate)
        return masked if len(masked) else weight.new_empty(1, weight.shape[1])


class IgnoresThePattern(Control):
    def mask_weight(self, *state, pattern, **options):
        return reference.mask_weight(*state, pattern=None, **options)


class LeavesNegativeZeros(Control):
    def remask_weight(self, weight, drift, kept, *, learning_rate):
        every = torch.full_like(kept, 255)
        moved = reference.remask_weight(weight, drift, every, learning_rate=learning_rate)
        return moved * (reference.remask_weight(torch.ones_like(weight), None, kept, learning_rate=0.0))


class RemasksTheWeightsThatStay(Control):
    def remask_weight(self, weight, drift, kept, *, learning_rate):
        return reference.remask_weight(weight, None, kept, learning_rate=learning_rate)


class FollowsTheRoundedMoment(Control):
    def feedback_step(self, second, drift, gradient, rate, *, decay):
        reference.feedback_step(second, None, gradient, rate, decay=decay)
        if drift is not None:
            change = gradient.float() / second.float().sqrt()
            drift.copy_(drift.float() - rate * torch.where(second > 0, change, 0.0))


class ForgetsTheRate(Control):
    def feedback_step(self, second, drift, gradient, rate, *, decay):
        reference.feedback_step(second, drift, gradient, torch.ones_like(rate), decay=decay)


class DividesByNothing(Control):
    def feedback_step(self, second, drift, gradient, rate, *, decay):
        old = drift.clone() if drift is not None else None
        reference.feedback_step(second, drift, gradient, rate, decay=decay)
        if drift is not None:
            drift.copy_(torch.where(gradient == 0, old + 1, drift))


class MovesACopyOfTheDrift(Control):
    def feedback_step(self, second, drift, gradient, rate, *, decay):
        copy = None if drift is None else drift.contiguous()
        reference.feedback_step(second, copy, gradient, rate, decay=decay)

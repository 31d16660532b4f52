"""Backends with one defect each, and one without: what the conformance suite must tell apart."""

from __future__ import annotations

import torch

from unipruning_core import Backend
from unipruning_kernels import reference


class Control(reference.Operations, Backend):
    name = "subject"
    device_type = "cpu"


class ConvertsLate(Control):
    def accumulate_sumsq(self, x, out):
        out += x.square().sum(dim=0)


class ReplacesInsteadOfAdding(Control):
    def accumulate_sumsq(self, x, out):
        out.copy_(x.float().square().sum(dim=0))


class WritesAroundTheView(Control):
    def accumulate_sumsq(self, x, out):
        reference.accumulate_sumsq(x, out)
        if out.stride(0) > 1:
            torch.as_strided(out, (out.numel(),), (out.stride(0),), out.storage_offset() - 1).zero_()


class SumsInBfloat16(Control):
    def abs_sums(self, weight, input_factors, output_factors):
        return reference.abs_sums(weight.bfloat16(), input_factors, output_factors)


class ForgetsTheLastBlock(Control):
    def abs_sums(self, weight, input_factors, output_factors):
        end = max(4, weight.shape[1] // 16 * 16)
        rows, _ = reference.abs_sums(weight[:, :end], input_factors[:, :end], output_factors)
        return rows, reference.abs_sums(weight, input_factors, output_factors)[1]


class RepeatsTheFirstFactor(Control):
    def abs_sums(self, weight, input_factors, output_factors):
        rows, columns = reference.abs_sums(weight, input_factors, output_factors)
        return rows[:1].expand_as(rows).contiguous(), columns


class NeedsAFactorEachWay(Control):
    def abs_sums(self, weight, input_factors, output_factors):
        rows, columns = reference.abs_sums(weight, input_factors, output_factors)
        return (rows, columns) if len(rows) and len(columns) else (rows.new_zeros(1, len(weight)), columns)


class StepsOutOfPlace(Control):
    def mirror_step(self, dual, *rest, **options):
        return reference.mirror_step(dual.clone(), *rest, **options)


class ReplacesTheStorage(Control):
    def mirror_step(self, dual, *rest, **options):
        fresh = dual.clone()
        reference.mirror_step(fresh, *rest, **options)
        dual.data = fresh


class ReturnsTheDual(Control):
    def mirror_step(self, dual, *rest, **options):
        reference.mirror_step(dual, *rest, **options)
        return dual


class InterpolatesTheThreshold(Control):
    def mirror_step(self, dual, weight, r, p, q, threshold, *, step_size, rank, **options):
        reference.mirror_step(dual, weight, r, p, q, threshold, step_size=step_size, rank=None, **options)
        if rank is not None:
            share = torch.quantile(dual.abs().flatten(), rank / dual.numel())
            threshold.copy_(share if rank else torch.zeros_like(threshold))


class TakesTheThresholdOfTheOldDual(Control):
    def mirror_step(self, dual, weight, r, p, q, threshold, *, step_size, rank, **options):
        old = dual.abs().flatten()
        reference.mirror_step(dual, weight, r, p, q, threshold, step_size=step_size, rank=None, **options)
        if rank is not None:
            threshold.copy_(old.kthvalue(rank).values if rank else torch.zeros_like(threshold))


class CountsRanksFromZero(Control):
    def mirror_step(self, dual, *rest, rank, **options):
        reference.mirror_step(dual, *rest, rank=rank and min(rank + 1, dual.numel()), **options)


class MovesTheThresholdWithoutRank(Control):
    def mirror_step(self, *arguments, rank, **options):
        reference.mirror_step(*arguments, rank=rank or 0, **options)


class FusesMultiplyAndAdd(Control):
    def mirror_step(self, dual, weight, r, p, q, threshold, *, step_size, rank, gradient=None, phi=0.0):
        w = weight.float()
        saliency = w.abs() * (r[:, None] * p + q)
        if gradient is not None:
            saliency = saliency + phi * (w * gradient.float()).square()
        pull = saliency - dual.sign() * (dual.abs() - threshold).clamp_min(0.0)
        # a product of two float32 is exact in float64, so this rounds once where the contract rounds twice
        dual.copy_(dual.double() + torch.tensor(step_size).double() * pull.double())
        if rank is not None:
            threshold.copy_(dual.abs().flatten().kthvalue(rank).values if rank else torch.zeros_like(threshold))


class DropsTheGradient(Control):
    def mirror_step(self, *arguments, gradient=None, phi=0.0, **options):
        reference.mirror_step(*arguments, **options)


class IgnoresThePrefix(Control):
    def magnitude_histogram(self, score, prefix, level, counts):
        below = sum(reference.DIGIT_BITS[level + 1 :])
        key = score.contiguous().view(torch.int32) & reference.MAGNITUDE_BITS
        digit = (key >> below) & (2 ** reference.DIGIT_BITS[level] - 1)
        counts += torch.bincount(digit.flatten(), minlength=counts.numel())


class OverwritesTheCounts(Control):
    def magnitude_histogram(self, score, prefix, level, counts):
        reference.magnitude_histogram(score, prefix, level, counts.zero_())


class CountsInInt32(Control):
    def magnitude_histogram(self, score, prefix, level, counts):
        reference.magnitude_histogram(score, prefix, level, counts)
        counts.copy_(counts.int())


class HeedsThePrefixAtTheTop(Control):
    def magnitude_histogram(self, score, prefix, level, counts):
        if level or not prefix:
            reference.magnitude_histogram(score, prefix, level, counts)


class KeepsWhatEqualsTheThreshold(Control):
    def threshold_mask(self, score, threshold, ties):
        return score.abs() >= threshold


class TakesTiesFromTheEnd(Control):
    def threshold_mask(self, score, threshold, ties):
        flipped = reference.threshold_mask(score.flip(0, 1), threshold, ties)
        return flipped.flip(0, 1).contiguous()


class KeepsOneTooMany(Control):
    def topk_mask(self, score, keep):
        return reference.topk_mask(score, min(keep + 1, score.shape[1]))


class BreaksTiesAsTorchTopk(Control):
    def topk_mask(self, score, keep):
        return torch.zeros(score.shape, dtype=torch.bool).scatter_(1, score.abs().topk(keep).indices, True)


class RanksBySign(Control):
    def topk_mask(self, score, keep):
        order = score.sort(dim=1, descending=True, stable=True).indices
        return torch.zeros(score.shape, dtype=torch.bool).scatter_(1, order[:, :keep], True)


class ChangesItsInput(Control):
    def topk_mask(self, score, keep):
        return reference.topk_mask(score.abs_(), keep)


class FlushesDenormals(Control):
    def topk_mask(self, score, keep):
        return reference.topk_mask(score.where(score.abs() >= torch.finfo(torch.float32).tiny, 0.0), keep)


class BreaksTiesBackwards(Control):
    def nm_mask(self, score, n, m):
        flipped = score.flip(1)
        return reference.nm_mask(flipped, n, m).flip(1).contiguous()


class IgnoresStrides(Control):
    def nm_mask(self, score, n, m):
        flat = torch.as_strided(score, score.shape, (score.shape[1], 1), score.storage_offset())
        return reference.nm_mask(flat, n, m)


class LeavesMaskBytesUnwritten(Control):
    def nm_mask(self, score, n, m):
        mask = torch.empty(score.shape, dtype=torch.bool)
        mask[:, :-1] = reference.nm_mask(score, n, m)[:, :-1]
        return mask


class GivesStridedMasks(Control):
    def nm_mask(self, score, n, m):
        return reference.nm_mask(score, n, m).t().contiguous().t()


class GivesByteMasks(Control):
    def nm_mask(self, score, n, m):
        return reference.nm_mask(score, n, m).byte()


class ForgetsSigns(Control):
    def nm_prox(self, weight, strength, n, m):
        reference.nm_prox(weight.abs_(), strength, n, m)


class AlwaysCuts(Control):
    def nm_prox(self, weight, strength, n, m):
        weight.masked_fill_(~reference.nm_mask(weight.float(), n, m), 0.0)


class ForgetsOtherPatterns(Control):
    def nm_prox(self, weight, strength, n, m):
        if (n, m) == (2, 4):
            reference.nm_prox(weight, strength, n, m)


class ProxesACopy(Control):
    def nm_prox(self, weight, strength, n, m):
        reference.nm_prox(weight.contiguous(), strength, n, m)


class ForgetsTheScale(Control):
    def adamw_step(self, weight, gradient, first, second, scale, **options):
        reference.adamw_step(weight, gradient, first, second, torch.ones_like(scale), **options)


class CorrectsNoBias(Control):
    def adamw_step(self, *tensors, step, **options):
        reference.adamw_step(*tensors, step=10**6, **options)


class RoundsTheSecondMoment(Control):
    def adamw_step(self, weight, gradient, first, second, scale, **options):
        reference.adamw_step(weight, gradient, first, second, scale, **options)
        second.copy_(second.bfloat16())


class SquaresInHalfPrecision(Control):
    def adamw_step(self, weight, gradient, first, second, scale, **options):
        spread = (gradient * scale).square().float().sqrt() * gradient.sign()
        reference.adamw_step(weight, spread, first, second, torch.ones_like(scale), **options)


class MovesACopyOfTheMoment(Control):
    def adamw_step(self, weight, gradient, first, second, scale, **options):
        reference.adamw_step(weight, gradient, first.contiguous(), second, scale, **options)

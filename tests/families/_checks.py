"""What must hold of a pruned checkpoint, checked from outside: files, masks, counts, memory, logits, text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _making import EXPERT, expert_tensors, tensors, token_ids
from _shrunk import HIDDEN, INNER
from torch import Tensor, nn

from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.report import read_report

# decide which expert a token goes to, and stay dense
ROUTER = re.compile(r"router|\bgate\.(wg|weight)|\bgate\.gate")
SPARSITIES = {"60-global": "60%/global", "50-row": "50%/row", "2-4": "2:4"}


class CheckError(Exception):
    """Something that must hold and does not."""


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


@dataclass(frozen=True)
class Runs:
    """What plain transformers can do with the original, on tokens alone."""

    logits: bool = True
    text: bool = True


def check(output: Path, original: Path, name: str, load: Any, runs: Runs) -> dict[str, int]:
    """Check one output and return what it pruned: of the file, of the experts, of the targets.

    Raises:
        CheckError: what does not hold.
    """
    stored, pruned = tensors(original), tensors(output)
    must(list(stored) == list(pruned), "the output has other tensors than the original")
    zeros = {tensor: _new_zeros(tensor, stored[tensor], pruned[tensor]) for tensor in stored}
    total = sum(zeros.values())
    overall = read_report(output)["overall"]
    counted = overall["total"] - overall["kept"]
    _check_masks(output, stored, pruned, name, total)
    must(counted == total, f"the report counts {counted} pruned weights, the file has {total}")
    wanted = overall["total"] * (0.6 if name == "60-global" else 0.5)
    must(abs(total - wanted) <= 1, f"{total} of {overall['total']} weights were pruned, not {wanted:.0f}")
    for tensor, count in zeros.items():
        must(not (count and ROUTER.search(tensor)), f"router {tensor} was pruned")
    for path in original.iterdir():
        if path.suffix != ".safetensors":
            must(path.read_bytes() == (output / path.name).read_bytes(), f"{path.name} is not that of the original")
    _check_memory(load(original), load(output), name, total, runs)
    return {
        "targets": overall["total"],
        "pruned": total,
        "experts": sum(zeros[tensor] for tensor in expert_tensors(stored)),
    }


def _new_zeros(name: str, before: Tensor, after: Tensor) -> int:
    must(before.shape == after.shape and before.dtype == after.dtype, f"{name} has another shape or dtype")
    zero = after == 0
    must(torch.equal(torch.where(zero, 0, before), torch.where(zero, 0, after)), f"{name} holds values of its own")
    return int((zero & (before != 0)).sum())


def _check_masks(output: Path, stored: dict[str, Tensor], pruned: dict[str, Tensor], name: str, total: int) -> None:
    masks = read_masks(output, progress=False)
    zeros = 0
    for target in masks.targets:
        mask = masks.read(target.name)
        zeros += int((~mask).sum())
        _check_pattern(mask, name, f"the mask of {target.name}")
        before = stored.get(target.name)
        if before is not None and before.shape == target.stored_shape:
            wanted = before * (mask.T if target.transposed else mask)
            must(torch.equal(wanted, pruned[target.name]), f"{target.name} is not the original under its mask")
    # random weights may be zero before, which no mask shows
    already = sum(int((before == 0).sum()) for before in stored.values())
    must(0 <= zeros - total <= already, f"the masks prune {zeros} weights, the file {total}")


def _check_pattern(mask: Tensor, name: str, whose: str) -> None:
    columns = mask.shape[1]
    if name == "50-row":
        must(bool((mask.sum(dim=1) * 2 == columns).all()), f"{whose} does not keep half of each row")
    if name == "2-4":
        must(bool((mask.reshape(-1, 4).sum(dim=1) == 2).all()), f"{whose} does not keep 2 of every 4")


def _check_memory(original: nn.Module, pruned: nn.Module, name: str, total: int, runs: Runs) -> None:
    """Mask the original in memory where the pruned one, as transformers loads it, is zero, and compare the two."""
    zeros, linear = 0, _inputs_last(original)
    parameters = dict(pruned.named_parameters())
    with torch.no_grad():
        for tensor, before in original.named_parameters():
            after = parameters[tensor]
            zero = (after == 0) & (before != 0)
            must(torch.equal(torch.where(zero, 0, before), after), f"{tensor} in memory has values of its own")
            if tensor in linear and zero.any():
                _check_pattern(~zero if linear[tensor] else ~zero.T, name, f"{tensor} in memory")
            elif EXPERT.search(tensor) and zero.any():
                _check_pattern(expert_rows(tensor, ~zero), name, f"{tensor} in memory")
            zeros += int(zero.sum())
            before.masked_fill_(zero, 0)
        must(zeros == total, f"{zeros} weights are zero in memory and {total} in the file")
        if runs.logits:
            must(torch.equal(logits(original), logits(pruned)), "logits differ from the original's, masked in memory")
        if runs.text:
            must(torch.equal(written(original), written(pruned)), "it writes another text than the original, masked")


def expert_rows(name: str, kept: Tensor) -> Tensor:
    """Return what is kept of all experts of a parameter, (rows, inputs), by the sizes that shrinking gave them."""
    of_each = kept if kept.ndim == 3 else kept.view(-1, INNER, HIDDEN)
    inputs_last = (of_each.shape[2] == HIDDEN) != bool(re.search(r"down|w2|output|fc2", name))
    return (of_each if inputs_last else of_each.transpose(1, 2)).flatten(0, 1)


def logits(model: nn.Module) -> Tensor:
    """Return the logits of tokens alone; a model of diffusion begins with noise."""
    torch.manual_seed(5)
    return model(input_ids=token_ids()).logits


def written(model: nn.Module) -> Tensor:
    """Return tokens with five more that the model writes."""
    return model.generate(input_ids=token_ids(), max_new_tokens=5, min_new_tokens=5, do_sample=False)


def _inputs_last(model: nn.Module) -> dict[str, bool]:
    """Return the weights of linear layers, and whether their inputs lie along the last dimension."""
    from transformers.pytorch_utils import Conv1D

    kinds = {nn.Linear: True, Conv1D: False}
    return {f"{name}.weight": kinds[type(module)] for name, module in model.named_modules() if type(module) in kinds}

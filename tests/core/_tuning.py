"""Tiny pruned checkpoints that are trained, and what training has left of their zeros."""

from __future__ import annotations

from pathlib import Path

import torch
from _checkpoints import save_gpt2, save_llama, save_text, save_tokenizer
from _mixtures import LAYOUTS, save_mixture
from transformers import AutoModelForCausalLM

import unipruning
from unipruning_core.storage.checkpoint import Checkpoint

TOKENS = torch.arange(32).view(2, 16)
SAVED = {
    "llama": lambda folder: save_llama(folder, dtype=torch.float32),
    "gpt2": save_gpt2,
    **{name: lambda folder, name=name: save_mixture(folder, name) for name in LAYOUTS},
}


def prune(folder: Path, kind: str = "llama", sparsity: str = "60%") -> Path:
    """Make a model and prune it; return the pruned folder."""
    SAVED[kind](folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    data = {"data": str(folder / "text.txt"), "samples": 1, "seq_len": 16}
    unipruning.prune(
        folder / "model",
        sparsity=sparsity,
        mode="frozen",
        out=folder / "pruned",
        progress=False,
        dtype="float32",
        **data,
    )
    return folder / "pruned"


def loaded(pruned: Path, **others):
    return AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32, **others)


def train(model, optimizer, steps: int = 3, accumulated: int = 1) -> None:
    """Take some steps, each on the gradients of several batches."""
    for step in range(steps):
        for batch in range(accumulated):
            tokens = (TOKENS + step + batch) % 48
            model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def left_of(tuned: Path, pruned: Path) -> tuple[int, int]:
    """Return how many pruned weights of a saved model are not zero, and how many kept ones are as before."""
    masks, before, after = unipruning.read_masks(pruned, False), Checkpoint.open(pruned), Checkpoint.open(tuned)
    lost = still = 0
    for target in masks.targets:
        mask = masks.read(target.name)
        stored = mask.t() if target.transposed else mask
        one, other = before.read_target(target), after.read_target(target)
        lost += int((other[~stored] != 0).sum())
        still += int((one[stored] == other[stored]).sum())
    return lost, still

"""Samples that a real GPU records as a CUDA graph and replays."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unipruning_core.backend import Backend
from unipruning_core.models.outline import header_of
from unipruning_core.models.targets import find_targets
from unipruning_core.registry import Catalogue
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Checkpoint

pytestmark = pytest.mark.gpu

SAMPLES, TOKENS, VOCABULARY = 12, 64, 512
# attention whose backward pass adds up in an order that never changes
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2}
KINDS = {"attn_implementation": "eager", "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def backend() -> Backend:
    return Catalogue().select("cuda")


def searched(backend: Backend, lengths: list[int], *, records: bool, **settings: Any) -> tuple[Any, Any, list[Tensor]]:
    """Return a search after all samples, its losses, and the scores that it ends with."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **KINDS)).bfloat16().to(backend.device_type).eval()
    layers, _ = find_targets(model, Checkpoint(Path("tiny"), (), header_of(model)))
    search: Any = MODES["feedback"](**settings).start(model, layers, backend, len(lengths))
    search.recorder.possible = records
    losses = []
    for sample, length in enumerate(lengths):
        ids = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(sample))
        losses.append(search.step(sample, ids.to(backend.device_type)))
        # what a replay does not own may lie anywhere by now
        gc.collect()
        torch.full((2**20,), float("nan"), device=backend.device_type)
    assert search.notes == []
    assert search.recorder.recorded == records
    return search, losses, [outcome.dual for outcome in search.outcomes()]


@pytest.mark.parametrize("settings", [{}, {"pattern": "2:4"}, {"metric": "stochria", "learning_rate": 0.0}], ids=str)
@pytest.mark.parametrize("others", [[], [4, 6, 9]], ids=["one length", "other lengths between"])
def test_a_replayed_search_ends_as_a_plain_one_does(
    backend: Backend, record_property: Callable[[str, object], None], others: list[int], settings: dict[str, Any]
) -> None:
    lengths = [TOKENS // 2 if sample in others else TOKENS for sample in range(SAMPLES)]
    _, plain_losses, plain = searched(backend, lengths, records=False, **settings)
    _, losses, scores = searched(backend, lengths, records=True, **settings)
    different = sum(int((one != other).sum()) for one, other in zip(scores, plain, strict=True))
    record_property("scores that differ at all", different / sum(score.numel() for score in scores))
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    for one, other in zip(scores, plain, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm()


def test_what_cannot_be_recorded_says_why_and_leaves_the_device_as_it_was(backend: Backend) -> None:
    stream, x = torch.cuda.current_stream(), torch.ones(8, device=backend.device_type)
    with pytest.raises(RuntimeError, match="captur"):
        backend.recorded(lambda: x.add_(float(x[0])) and None)
    assert torch.cuda.current_stream() == stream
    assert float((x + 1).sum()) == 16.0

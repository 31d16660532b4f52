"""A recorded sample of the CUDA backend: kernels and operators replayed in the memory where they were recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from unipruning_core.models.outline import header_of
from unipruning_core.models.targets import find_targets
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.testing.replaying import Recording
from unipruning_cuda.backend import CudaBackend
from unipruning_kernels.triton_launch import Launcher

pytestmark = pytest.mark.triton_interpret

SAMPLES = 4  # of which the last two are replayed


class NotingLauncher(Launcher):
    """Notes launches where something is recorded."""

    recording: Recording | None = None

    def __call__(
        self,
        kernel: Any,
        programs: int,
        *arguments: torch.Tensor | int | float,
        warps: int = 4,
        **constants: int | bool,
    ) -> None:
        launch = partial(super().__call__, kernel, programs, warps=warps, **constants)
        if self.recording is None:
            launch(*arguments)
        else:
            self.recording.launch(launch, *arguments)


class ReplayingBackend(CudaBackend):
    def __init__(self) -> None:
        self.launcher: NotingLauncher = NotingLauncher()

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        self.launcher.recording = recording = Recording()
        try:
            recording.record(work)
        finally:
            self.launcher.recording = None
        return recording.replay


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "inputs first":
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=24, n_layer=1, n_head=2)).eval()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval().bfloat16()


@pytest.mark.parametrize(("kind", "settings"), [("bfloat16", {}), ("inputs first", {"learning_rate": 0.0})], ids=str)
def test_a_replayed_sample_ends_in_the_same_bytes(kind: str, settings: dict[str, Any]) -> None:
    ids = [torch.randint(64, (1, 12), generator=torch.Generator().manual_seed(i)) for i in range(SAMPLES)]

    def run(backend: CudaBackend) -> tuple[list[float], dict[str, Tensor], Any]:
        model = model_of(kind)
        layers, _ = find_targets(model, Checkpoint(Path("tiny"), (), header_of(model)))
        search: Any = MODES["feedback"](**settings).start(model, layers, backend, SAMPLES)
        losses = [search.step(sample, batch) for sample, batch in enumerate(ids)]
        return losses, search.tensors(), search

    losses, state, search = run(CudaBackend())
    backend = ReplayingBackend()
    replayed_losses, replayed_state, replayed = run(backend)
    assert (search.recorder.recorded, replayed.recorder.recorded, replayed.notes) == (False, True, [])
    assert losses == replayed_losses
    assert {name for name in state if not torch.equal(state[name], replayed_state[name])} == set()

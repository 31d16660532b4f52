"""What a sample of a whole search launches on the CUDA backend, counted in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unipruning_core.models.outline import header_of
from unipruning_core.models.targets import find_targets
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.testing.tally import Tally
from unipruning_cuda.backend import CudaBackend

pytestmark = pytest.mark.triton_interpret

SETTLED = 3  # samples before the one that is counted


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "num_hidden_layers": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()


@pytest.mark.parametrize(
    ("mode", "metric", "launches"),
    [
        # a layer's masked weight, twice, its step, and four sums for the inputs of seven layers
        ("feedback", "wanda", 3 + 4 / 7),
        ("frozen", "stochria", 4 / 7),
    ],
)
def test_a_sample_launches_few_kernels_a_matrix_and_waits_for_one_value(
    model: LlamaForCausalLM, mode: str, metric: str, launches: float
) -> None:
    backend = CudaBackend()
    layers, _ = find_targets(model, Checkpoint(Path("tiny"), (), header_of(model)))
    ids = [torch.randint(64, (1, 8), generator=torch.Generator().manual_seed(i)) for i in range(SETTLED + 1)]
    search = MODES[mode](metric=metric).start(model, layers, backend, len(ids))
    for sample in range(SETTLED):
        search.step(sample, ids[sample])
    before = backend.launcher.launches.total()
    with Tally() as tally:
        search.step(SETTLED, ids[SETTLED])
    assert len(layers) == 21
    # the first block's query, key and value need no gradient of their input, so nothing makes their weight again
    assert launches - 3 / 21 <= (backend.launcher.launches.total() - before) / 21 <= launches
    assert tally.host_reads == 0  # the list of loss and threshold is no operator's

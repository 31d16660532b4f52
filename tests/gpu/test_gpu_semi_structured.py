"""A model that was exported as 2:4, loaded onto a real GPU and run there."""

from __future__ import annotations

import pytest
import torch

import unipruning
from unipruning_core.storage.checkpoint import Checkpoint, Target

pytestmark = pytest.mark.gpu


class Magnitude:
    scope = "matrix"
    provenance = {"method": "magnitude"}  # noqa: RUF012

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.fingerprint = checkpoint, checkpoint.fingerprint()
        linear = {name: info.shape for name, info in checkpoint.tensors.items() if "proj" in name}
        self.targets = tuple(Target(name, (shape[0], shape[1])) for name, shape in linear.items())

    def score(self, name: str) -> torch.Tensor:
        return self.checkpoint.read(name).float().abs()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("half")
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    scores = Magnitude(Checkpoint.open(folder / "model"))
    unipruning.project(folder / "model", scores, sparsity="2:4", out=folder / "pruned", backend="cpu", progress=False)
    return folder / "pruned"


def test_the_model_computes_what_the_dense_one_does(pruned, tmp_path):
    from transformers import AutoModelForCausalLM

    unipruning.export(pruned, tmp_path / "out", "semi-structured", progress=False)
    model = unipruning.load_semi_structured(tmp_path / "out", "cuda", progress=False)
    sparse = [value for value in model.parameters() if isinstance(value, torch.sparse.SparseSemiStructuredTensor)]
    assert len(sparse) == 14
    dense = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.bfloat16).to("cuda")
    tokens = torch.arange(64, device="cuda")[None] * 7 % 512
    with torch.no_grad():
        here, there = model(tokens).logits.float(), dense(tokens).logits.float()
    assert (here - there).norm() < 0.02 * there.norm()

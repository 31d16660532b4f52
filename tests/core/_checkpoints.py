"""Tiny checkpoints for the tests: random models saved by transformers, and files made by hand.

transformers is imported where it is needed: child processes of the tests use the rest, and start faster without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import Sparsity, parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONV1D = ("c_attn", "c_proj", "c_fc")
EVIL = 47  # the token at which the fixture ``overflowing`` overflows


def save_llama(folder: Path, *, dtype: torch.dtype = torch.bfloat16, shards: bool = False, layers: int = 2) -> Path:
    """A Llama of two layers; its widths are multiples of 8 and not of 32, so 1:32 does not divide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
    )
    torch.manual_seed(5)
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder, max_shard_size="5KB" if shards else "1GB")
    (folder / "tokenizer.json").write_text('{"a": "tokenizer"}')
    return folder


def save_gpt2(folder: Path) -> Path:
    """A GPT-2, whose Conv1D stores its weights as (in, out)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=48, n_positions=16, n_embd=24, n_layer=2, n_head=2)
    torch.manual_seed(6)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """Change a checkpoint's tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def overflowing_at(folder: Path, token: int) -> Path:
    """Change a model in float16 such that it gives NaN wherever it reads this token."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.embed_tokens.weight"][token] = 65504.0
        for name, tensor in tensors.items():
            if "o_proj" in name:
                tensor.mul_(3000)

    return changed(folder, change)


WORDS = [f"word{number}" for number in range(30)]


def save_home(folder: Path) -> Path:
    """A Llama with a tokenizer in ``model``, and ``text.txt``: what a command needs."""
    save_llama(folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    return folder


def save_tokenizer(folder: Path) -> None:
    """A tokenizer that knows ``WORDS``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def save_text(path: Path) -> None:
    """600 of ``WORDS``."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(WORDS), (600,), generator=generator).tolist()
    path.write_text(" ".join(WORDS[pick] for pick in picks))


def targets_of(checkpoint: Checkpoint) -> tuple[Target, ...]:
    """The linear layers inside the blocks, in checkpoint order."""
    found = []
    for name, info in checkpoint.tensors.items():
        kind = name.split(".")[-2]
        if name.endswith(".weight") and kind in LLAMA_LINEARS + CONV1D:
            rows, columns = info.shape
            found.append(Target(name, (columns, rows), True) if kind in CONV1D else Target(name, (rows, columns)))
    return tuple(found)


class FakeScores:
    """What a search leaves behind, made up: normal deviates, the same for the same name."""

    def __init__(self, checkpoint: Checkpoint, targets: tuple[Target, ...] | None = None, levels: int = 0) -> None:
        self.targets = targets_of(checkpoint) if targets is None else targets
        self.fingerprint = checkpoint.fingerprint()
        self.scope = "matrix"
        self.provenance: dict[str, object] = {"mode": "fake", "steps": 3}
        self.levels = levels  # of magnitude; 0 for as many as there are floats

    def score(self, name: str) -> Tensor:
        shape = next(target.shape for target in self.targets if target.name == name)
        generator = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
        score = torch.randn(shape, generator=generator).abs()
        return (score * self.levels).floor() / self.levels if self.levels else score


def parsed(*texts: str) -> list[Sparsity]:
    """The sparsities of these texts; a share that does not say of what is one of each matrix."""
    found = [parse_sparsity(text) for text in texts]
    return [sparsity.within("matrix") if isinstance(sparsity, Unstructured) else sparsity for sparsity in found]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file from a header that need not be true; bytes and str are written as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path

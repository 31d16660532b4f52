"""Small models with sides that the blocks of other formats divide, pruned, and a tokenizer of bytes."""

from __future__ import annotations

import json

import torch
from _checkpoints import FakeScores, parsed

from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

HIDDEN, VOCABULARY = 64, 300
SPLITS = {
    "gpt-2": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
}


def save_model(folder, kind="llama", *, dtype=torch.bfloat16, hidden=HIDDEN, **options):
    """A model of two layers with four heads, two of keys, and a tokenizer of ``VOCABULARY`` tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**sizes, **heads, "bos_token_id": 0, "eos_token_id": 0, **options})
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for name, parameter in model.named_parameters():
        # which are zeros, or ones, and would hide a mistake
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, 1, 0.1)
    model.save_pretrained(folder)
    save_bytes_tokenizer(folder)
    return folder


def save_bytes_tokenizer(folder):
    """A tokenizer of bytes with some merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 10, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the other one is there and then another one was here " * 3], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>").save_pretrained(folder)


def edit_json(path, change):
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def pruned_of(folder, out, sparsity="2:4", targets=None):
    checkpoint = Checkpoint.open(folder)
    project(checkpoint, FakeScores(checkpoint, targets), parsed(sparsity), out, CpuBackend())
    return out

"""The tiny checkpoint of a family, saved as transformers saves it, with what it says of itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _overrides import CHANGES
from _shrunk import VOCABULARY, shrunk
from safetensors import safe_open
from torch import Tensor, nn

TOKENS = VOCABULARY - 80  # all else of the vocabulary is left to images and the like
SYLLABLES = ["".join(pair) for pair in product("bdgklmnr", "aeiou")][::2]
CAUSAL, IMAGE_TEXT = "causal", "image-text"
# matrices of experts by their names in the file; what is shared, decides or sees is none
EXPERT = re.compile(r"(\b|_)experts\b|(block_sparse_moe|mlp|moe)\.(input|output)_linear|\bmoe\.(gate|up|down)_proj")
SHARED = re.compile(r"shared?_expert|shared_mlp|router|\.gate\.|gate\.weight|expert_bias|norm|vision|visual|audio")
ONE_EXPERT = re.compile(r"experts?\.\d+\.(.+?)(\.weight)?$")


@dataclass(frozen=True)
class Family:
    """A kind of model, by the model type of its configurations and the auto class that opens it."""

    name: str
    kind: str

    @property
    def label(self) -> str:
        return self.name if self.kind == CAUSAL else f"{self.name}:{self.kind}"


def families() -> list[Family]:
    """Return every family of the installed transformers; one class under two auto classes is one."""
    from transformers.models.auto import modeling_auto as auto

    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    image_text = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    others = [name for name in image_text if image_text[name] != causal.get(name)]
    return [*(Family(name, CAUSAL) for name in causal), *(Family(name, IMAGE_TEXT) for name in others)]


def auto_class(kind: str) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM if kind == CAUSAL else transformers.AutoModelForImageTextToText


def make(family: Family, folder: Path) -> nn.Module:
    """Save the checkpoint with a tokenizer into ``folder``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[family.name], CHANGES.get(family.name, {}))
    torch.manual_seed(1)
    model = auto_class(family.kind).from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # a matrix of zeros says nothing of what becomes of it, nor does one that was never filled
            if parameter.ndim > 1 and not (parameter.isfinite().all() and parameter.any()):
                parameter.normal_(std=0.02)
            if parameter.ndim > 1:
                parameter.masked_fill_(parameter == 0, 0.02)  # a zero among random weights would look pruned
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    if family.kind == IMAGE_TEXT:
        (folder / "preprocessor_config.json").write_text('{"size": 32}\n')
    return model


def _save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of bytes and their pairs, which the tokenizer class of any family can hold."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(_rows(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_text(path: Path) -> None:
    """Write the calibration text."""
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in _rows()))


def _rows() -> list[str]:
    """Return rows of 80 words, frequent and rare ones."""
    words = ["".join(pair) for pair in product(SYLLABLES, SYLLABLES)]
    frequencies = torch.arange(1, len(words) + 1).float().reciprocal()
    picks = torch.multinomial(frequencies, 4000, replacement=True, generator=torch.Generator().manual_seed(2)).tolist()
    return [" ".join(words[pick] for pick in picks[start : start + 80]) for start in range(0, len(picks), 80)]


def token_ids() -> Tensor:
    """Return the tokens whose logits are compared, (1, 64)."""
    return torch.randint(3, TOKENS, (1, 64), generator=torch.Generator().manual_seed(3))


def others(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the inputs to try where tokens alone do not do, by what they add."""
    vision = getattr(model.config, "vision_config", None) or getattr(model.config, "encoder", None)
    size = getattr(vision, "image_size", 32)
    tokens, image = token_ids(), torch.zeros(1, 3, *(size if isinstance(size, list | tuple) else (size, size)))
    patches = torch.ones(1, 16, 2 + getattr(vision, "patch_embed_hidden_size", 0))
    text, decoded = {"input_ids": tokens}, {"decoder_input_ids": tokens}
    return {
        "decoder_input_ids": text | decoded,
        "pixel_values": text | {"pixel_values": image},
        "pixel_values and qformer_input_ids": text | {"pixel_values": image, "qformer_input_ids": tokens},
        "pixel_values of several images": text
        | {"pixel_values": image[None], "image_attention_mask": torch.ones(1, 64, 1)},
        "bbox": text | decoded | {"bbox": torch.zeros(1, 64, 4)},
        "pixel_values in place of tokens": {"pixel_values": image} | decoded,
        "flattened_patches in place of tokens": {"flattened_patches": patches} | decoded,
    }


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint's files."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def expert_tensors(stored: dict[str, Tensor]) -> list[str]:
    """Return the names of the matrices of experts."""
    return [
        name
        for name, tensor in stored.items()
        if EXPERT.search(name) and not SHARED.search(name) and tensor.ndim > 1 and min(tensor.shape[-2:]) > 8
    ]


def layout(stored: dict[str, Tensor], hidden: int) -> str:
    """Say how the file holds the experts."""
    names = expert_tensors(stored)
    if not names:
        return ""
    alone = [name for name in names if stored[name].ndim == 2]
    if parts := sorted({match[1] for name in alone if (match := ONE_EXPERT.search(name))}):
        return f"one tensor an expert: {', '.join(parts)}"
    if alone:
        return f"stacked along rows: {', '.join(sorted({name.split('.')[-1] for name in alone}))}"
    parts = sorted({re.sub(r"\.weight$", "", name).split(".")[-1] for name in names})
    joined = next((stored[name] for name in names if re.search(r"up|input|w1|fc1", name)), stored[names[0]])
    return f"fused {'(experts, in, out)' if joined.shape[1] == hidden else '(experts, out, in)'}: {', '.join(parts)}"


def embedding_weights(model: nn.Module) -> int:
    """Count the weights of embeddings and of the output layer, tied ones once."""
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if (head := model.get_output_embeddings()) is not None:
        modules.append(head)
    weights = [weight for module in modules if (weight := getattr(module, "weight", None)) is not None]
    return sum({weight.data_ptr(): weight.numel() for weight in weights}.values())

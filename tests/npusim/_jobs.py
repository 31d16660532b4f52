"""Whole commands on models small enough for the simulation, and how two of their results are compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from unipruning_core.projection.mask_file import read_masks
from unipruning_core.search.run_folder import Run
from unipruning_core.storage.tensorfile import read_tensor

SPARSITIES = {"60%": "60", "60%/row": "60-row", "60%/global": "60-global", "2:4": "2-4"}
WORDS = [f"word{number}" for number in range(30)]

# transformers is imported in the process of the simulation alone: where torch_npu finds no CANN, it fails
COMMANDS = """
import json
from pathlib import Path
from _jobs import make_pretrained, make_tiny
from unipruning_core.cli.main import main
{make}
for words in json.loads({commands!r}):
    assert main(words) == 0, words
OUT.write_text("done")
"""


@dataclass(frozen=True)
class Difference:
    """How two results differ, over all target weights."""

    weights: int
    dual: float  # the largest relative difference of V
    masks: dict[str, int]  # by sparsity, positions that one keeps and the other does not
    gap: float  # the largest relative distance, of a weight in such a position, from the cut its group made


def asked() -> list[str]:
    return [word for sparsity in SPARSITIES for word in ("--sparsity", sparsity)]


def prune(home: Path, out: str, mode: str, metric: str, *words: str) -> list[str]:
    where = ["--data", str(home / "text.jsonl"), "--out", str(home / out), "--mode", mode, "--metric", metric]
    return ["prune", str(home / "model"), *where, *asked(), *words]


def project(home: Path, run: str, out: str, *words: str) -> list[str]:
    return ["project", str(home / "model"), str(home / run), *asked(), "--out", str(home / out), *words]


def make_tiny(folder: Path, blocks: int = 2) -> None:
    """A Llama of a few blocks with random weights, its tokenizer and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=48,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(5)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "model")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder / "model")
    picks = torch.randint(len(WORDS), (600,), generator=torch.Generator().manual_seed(0)).tolist()
    text = {"text": " ".join(WORDS[pick] for pick in picks)}
    (folder / "text.jsonl").write_text(json.dumps(text), encoding="utf-8")


def make_pretrained(folder: Path, blocks: int) -> None:
    """SmolLM2-135M cut after its first blocks: real weights, few enough to be simulated in a minute or two."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from unipruning_core.tools.demo.assets import demo_model, demo_texts

    model = AutoModelForCausalLM.from_pretrained(demo_model())
    model.model.layers = model.model.layers[:blocks]
    model.config.num_hidden_layers = blocks
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:blocks]
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(demo_model()).save_pretrained(folder / "model")
    text = {"text": demo_texts()[0].read_text(encoding="utf-8")}
    (folder / "text.jsonl").write_text(json.dumps(text), encoding="utf-8")


def same_files(first: Path, second: Path) -> bool:
    """Whether the weights and masks of every sparsity are the same bytes."""
    return all(
        (first / slug / name).read_bytes() == (second / slug / name).read_bytes()
        for slug in SPARSITIES.values()
        for name in ("model.safetensors", "unipruning.masks")
    )


def difference(first: Path, second: Path) -> Difference:
    """Of two results of ``prune``, each with its run folder beside it."""
    runs = [Run.open(folder.with_name(f"{folder.name}-run")) for folder in (first, second)]
    masks = {slug: [read_masks(folder / slug) for folder in (first, second)] for slug in SPARSITIES.values()}
    worst, gap, weights, differing = 0.0, 0.0, 0, dict.fromkeys(SPARSITIES, 0)
    for target in runs[0].targets:
        one, other = (read_tensor(run.tensors[target.name]) for run in runs)
        weights += one.numel()
        worst = max(worst, float(((one - other).abs() / one.abs().clamp_min(1e-30)).max()))
        for sparsity, slug in SPARSITIES.items():
            here, there = (mask.read(target.name) for mask in masks[slug])
            differing[sparsity] += int((here != there).sum())
            if sparsity != "60%/global":
                gap = max(gap, _gap(runs[0].score(target.name), here, there, sparsity))
    return Difference(weights, worst, differing, gap)


def _gap(score: torch.Tensor, here: torch.Tensor, there: torch.Tensor, sparsity: str) -> float:
    """Weights between which two masks chose otherwise had nearly the same score; by how much not, at worst."""
    width = {"60%": score.numel(), "60%/row": score.shape[1], "2:4": 4}[sparsity]
    groups, kept, wanted = (x.reshape(-1, width) for x in (score, here, there))
    cut = groups.masked_fill(~kept, torch.inf).amin(dim=1, keepdim=True)
    apart = (groups - cut).abs() / cut.clamp_min(1e-30)
    return float(apart.masked_fill(kept == wanted, 0.0).max())

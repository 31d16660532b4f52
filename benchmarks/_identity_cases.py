"""What ``identity.py`` has every version of the product make: the models, the searches and the sparsities."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What is pruned, and on how much of which text."""

    group: str
    text: str
    samples: int
    seq_len: int

    @property
    def words(self) -> list[str]:
        return ["--data", self.text, "--seq-len", str(self.seq_len)]


@dataclass(frozen=True)
class Case:
    """One search, and the budget that is made from it."""

    words: str
    scheme: str = ""
    tiny: bool = False  # of tiny models alone, to save time


MODELS = {
    "llama": Model("tiny", "text.txt", 6, 32),  # in shards
    "gpt2": Model("tiny", "text.txt", 6, 16),  # weights stored as (in, out)
    "smollm2": Model("smollm2", "c4.utf8", 4, 128),
}
# in the oldest spelling of each flag, which every version understands
CASES = {
    "drift": Case("--mode drift"),
    "drift-prox": Case("--mode drift --prox-strength 0.05"),
    "drift-unclipped": Case("--mode drift --max-grad-norm 0"),
    "coupled": Case("--mode coupled"),
    "frozen-magnitude": Case("--mode frozen --metric magnitude", tiny=True),
    "frozen-wanda": Case("--mode frozen --metric wanda", scheme="owl"),
    "frozen-ria": Case("--mode frozen --metric ria", tiny=True),
    "frozen-stochria": Case("--mode frozen --metric stochria", tiny=True),
    "feedback": Case("--mode feedback"),
    "feedback-2-4": Case("--mode feedback --pattern 2:4"),
    "feedback-undriven": Case("--mode feedback --learning-rate 0"),
    "feedback-fisher": Case("--mode feedback --exponent 0 --ramp-sparsity 0 --learning-rate 0", "fisher", tiny=True),
}
SPARSITIES = ["50%", "60%", "60%/row", "70%/global", "2:4", "2:4+dense@45%", "@budget.json"]
# for names of targets in all models
BUDGET = {"overall": "60%", "default": "60%", "sparsity": {"*.0.*": "50%/row", "*.1.*attn*": "2:4"}}
# of tiny models alone too
REFERENCES = {"sparsegpt-50": "50%", "sparsegpt-2-4": "2:4"}


def cases_of(name: str) -> list[str]:
    """What is made of one model."""
    if MODELS[name].group == "tiny":
        return [*CASES, *REFERENCES, "perplexity"]
    return [case for case, search in CASES.items() if not search.tiny]

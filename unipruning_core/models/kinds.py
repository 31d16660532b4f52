"""What kind of model a config describes: only what predicts the next token of a text is pruned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# as transformers names classes whose head is of another kind
OTHER_HEADS = re.compile(r"\w+For\w*(Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction|Reward\w*)")
CAUSAL = re.compile(r"\w+(CausalLM|LMHead)\w*")


def check_kind(name: str, config: PretrainedConfig, tensors: Iterable[str] = ()) -> None:
    """Refuse a config of a model that is no causal language model; ``tensors`` are the checkpoint's, where known.

    Raises:
        CheckpointError: it is an encoder-decoder, or has a head of another kind.
    """
    classes = _classes(config)
    if getattr(config, "is_encoder_decoder", False) and not any(map(CAUSAL.fullmatch, classes)):
        raise CheckpointError(
            f"model {name!r} is a {config.model_type!r} model with an encoder and a decoder, and only decoders can be "
            "pruned; pass a causal language model"
        )
    if other := next(filter(OTHER_HEADS.fullmatch, classes), None):
        raise CheckpointError(
            f"model {name!r} is a {other}{_head(tensors)}, not a causal language model; pass the language model that "
            "it was made from"
        )


def another_class(model: PreTrainedModel) -> str | None:
    """Return a sentence where the config names other classes than that of the model built from it."""
    classes = _classes(model.config)
    if not classes or type(model).__name__ in classes:
        return None
    return f"the model was saved as a {classes[0]} and is read as a {type(model).__name__}"


def _classes(config: PretrainedConfig) -> list[str]:
    """Return the classes that a config names, without what is no name in a damaged one."""
    named = getattr(config, "architectures", None)
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _head(tensors: Iterable[str]) -> str:
    """Return the words that name the first tensor outside the decoder, if there is one."""
    names = list(tensors)
    roots = Counter(name.partition(".")[0] for name in names)
    (decoder, _), *others = roots.most_common() or [("", 0)]
    head = next((name for name in names if others and name.partition(".")[0] != decoder), None)
    return "" if head is None else f" with a head {head!r}"

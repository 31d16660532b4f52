"""How many tokens a model has positions for: by its config, and by its table of learnt position embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.borders import library_errors_as

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

LONGEST_WINDOW = 2048  # tokens; what published results calibrate and evaluate with
# of a config, the first that it has; what is below 1 stands for no limit
NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "n_ctx",
    "seq_length",
    "context_length",
    "model_max_length",
)


def check_seq_len(positions: int | None, seq_len: int) -> None:
    """Refuse a length the model has no positions for, before the model is loaded."""
    if seq_len < 2:
        raise ConfigError(f"--seq-len must be at least 2, to have a token to predict, not {seq_len!r}")
    if positions is not None and seq_len > positions:
        raise ConfigError(
            f"--seq-len {seq_len} is more than the model's {positions} positions; pass at most {positions}"
        )


def window_length(positions: int | None, requested: int | None) -> int:
    """Return the tokens per window: as requested, or else LONGEST_WINDOW, or all positions of a model with fewer."""
    if requested is None:
        return min(LONGEST_WINDOW, positions or LONGEST_WINDOW)
    check_seq_len(positions, requested)
    return requested


def positions_of(config: PretrainedConfig, model: PreTrainedModel | None = None) -> int | None:
    """Return the most tokens that a model has positions for, or None if nothing limits them.

    The ``model``, which may be without weights, tells what its config does not.
    """
    limits = [_named(config), *(_learnt(model) if model else ())]
    return min((limit for limit in limits if limit is not None), default=None)


def _named(config: PretrainedConfig) -> int | None:
    with library_errors_as(CheckpointError, "the model's config is not usable", "copy the complete checkpoint"):
        text = config.get_text_config()
        named = next((value for name in NAMES if (value := getattr(text, name, None)) is not None), 0)
        return int(named) if int(named) > 0 else None


def _learnt(model: PreTrainedModel) -> Iterator[int]:
    """Yield the positions of each table of them that lies beside the embedding of tokens."""
    try:
        tokens = model.get_input_embeddings()
    # what models raise that look tokens up in another way
    except (AttributeError, NotImplementedError):
        return
    width = getattr(tokens, "embedding_dim", None)
    parent = next((module for module in model.modules() if tokens in module.children()), None)
    for name, holder, table in _tables(parent) if parent is not None else ():
        if ("pos" in name or name == "wpe") and table.dim() >= 2 and table.shape[-1] == width:
            # fairseq's heirs begin to count after the index of the padding, or 2 later
            offset, padding = getattr(holder, "offset", None), getattr(holder, "padding_idx", None)
            unused = (offset if isinstance(offset, int) else 0) + (0 if padding is None else int(padding) + 1)
            yield table.shape[-2] - unused


def _tables(parent: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield what lies directly in a module: the name there, the module that holds a parameter, and the parameter."""
    for name, child in parent.named_children():
        if not isinstance(child, nn.ModuleList):
            yield from ((name, child, table) for table in child.parameters())
    yield from ((name, parent, table) for name, table in parent.named_parameters(recurse=False))

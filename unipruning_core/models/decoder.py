"""The text decoder of a model, which may have towers for images and sound beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from unipruning_core.errors import CheckpointError
from unipruning_core.models.roles import is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the repeated blocks of the decoder: as many as the config tells, or else the list with most weights.

    The outermost is taken if several hold the same; one of a part with a config of another kind, such as a tower, only
    if there is no other.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    depth = getattr(text, "num_hidden_layers", None)
    start = _start(model, text)
    kinds = _kinds(model)
    wanted = {type(text), kinds[start]}
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(map(is_linear, module.modules()))
    ]
    # some models call a layer of their head the decoder, in which there is none
    lists = [(name, module) for name, module in lists if not start or name.startswith(f"{start}.")] or lists
    if not lists:
        raise CheckpointError(f"{type(model).__name__} has no list of repeated blocks with linear layers to prune")

    def fitness(named: tuple[str, nn.ModuleList]) -> tuple[bool, bool, int]:
        name, blocks = named
        held = sum(part.numel() for part in blocks.parameters() if part.dim() > 1)
        return kinds[name] in wanted, len(blocks) == depth, held

    return max(lists, key=fitness)


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the smallest part around the decoder's blocks that has an output layer of its own, or the whole model.

    The forward pass of the whole may need images, though the language model inside does not.
    """
    from transformers import PreTrainedModel

    path, _ = decoder_blocks(model)
    while path:
        path = path.rpartition(".")[0]
        part = model.get_submodule(path)
        if isinstance(part, PreTrainedModel) and part.get_output_embeddings() is not None:
            return part
    return model


def bare_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the text model without its output layer, whose first output are the last hidden states."""
    decoder: PreTrainedModel = text_model(model).base_model
    return decoder


def _start(model: nn.Module, text: Any) -> str:
    """Return the name of the module that holds the text decoder, by the model itself or by the text's config."""
    try:
        decoder = model.get_decoder()  # type: ignore[operator]
    # of a model that has none, or does not know it
    except (AttributeError, NotImplementedError):
        decoder = model
    if decoder is model and text is not getattr(model, "config", None):
        decoder = next((module for module in model.modules() if _kind(module) is type(text)), model)
    return next((name for name, module in model.named_modules() if module is decoder), "")


def _kinds(model: nn.Module) -> dict[str, type | None]:
    """Return the class of each module's config, which is that of the module around it if it has none."""
    kinds: dict[str, type | None] = {}
    for name, module in model.named_modules():
        around = kinds[name.rpartition(".")[0]] if name else None
        kinds[name] = _kind(module) or around
    return kinds


def _kind(module: nn.Module) -> type | None:
    config = getattr(module, "config", None)
    return None if config is None else type(config)

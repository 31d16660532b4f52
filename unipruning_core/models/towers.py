"""What lies outside the blocks of the text decoder, by structure: towers for images and sound, projectors, the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PROJECTOR = "a projector, or another part beside the text decoder"


@dataclass(frozen=True)
class Surroundings:
    """The parts of a model around the blocks of its decoder."""

    decoder: str  # how names in the smallest model around the blocks begin; nothing if that is all
    towers: Mapping[str, str]  # how names in the other models inside begin -> what each is
    heads: Sequence[nn.Module | None]  # the output layers of all models around the blocks

    @classmethod
    def of(cls, model: nn.Module, blocks: str) -> Surroundings:
        """Find them around the blocks of that name; a model is a module that transformers could load on its own."""
        from transformers import PreTrainedModel

        models = {f"{name}." if name else "": part for name, part in model.named_modules()}
        models = {start: part for start, part in models.items() if isinstance(part, PreTrainedModel)}
        around = [start for start in models if blocks.startswith(start)]
        configs = [models[start].config for start in around]
        towers: dict[str, str] = {}
        for start, part in models.items():
            if start not in around and not start.startswith(tuple(towers)):
                towers[start] = f"part of {_tower(part.config, configs)}"
        heads = [models[start].get_output_embeddings() for start in around]
        return cls(max(around, key=len, default=""), towers, heads)

    def why_not(self, path: str, module: nn.Module) -> str:
        """Return what a module outside the blocks is."""
        if tower := next((why for start, why in self.towers.items() if f"{path}.".startswith(start)), None):
            return tower
        if isinstance(module, nn.Embedding):
            return "an embedding"
        if any(module is head for head in self.heads):
            return "the output layer"
        if self.towers and not f"{path}.".startswith(self.decoder):
            return PROJECTOR
        return "outside the decoder blocks"


def _tower(config: PretrainedConfig, around: Sequence[PretrainedConfig]) -> str:
    """Return what a part is called, by the name that its config has in those of the models around."""
    names = [name for whole in around for name, value in vars(whole).items() if type(value) is type(config)]
    return f"the {names[0].removesuffix('_config')} tower" if names else "a tower beside the text decoder"

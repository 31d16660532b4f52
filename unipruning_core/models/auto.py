"""Which of transformers' classes opens a model: the one for its kind of text generation, by its config alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# the last is not in every version
AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModelForMultimodalLM")


def auto_class(name: str, config: PretrainedConfig, *, trust_remote_code: bool) -> Any:
    """Return the auto class that builds and loads a model of this config, with its towers for images and sound.

    Of several that know the config it is the one whose model the config names as its own.

    Raises:
        CheckpointError: none knows it.
    """
    import transformers

    known = [kind for auto in AUTO_CLASSES if (kind := getattr(transformers, auto, None)) is not None]
    named = getattr(config, "auto_map", None) or {}
    with_code = [kind for kind in known if kind.__name__ in named]
    built_in = [kind for kind in known if type(config) in kind._model_mapping]
    if not (fitting := (with_code if trust_remote_code else []) or built_in or with_code):
        raise CheckpointError(
            f"model {name!r} is a {config.model_type!r} model, and this version of transformers has none of that kind "
            "that writes text; pass a causal language model, or one that also takes images or sound"
        )
    if len(fitting) == 1 or fitting is not built_in:
        return fitting[0]
    architectures = getattr(config, "architectures", None) or []
    return next((kind for kind in built_in if kind._model_mapping[type(config)].__name__ in architectures), built_in[0])


def loader(kind: Any, config: PretrainedConfig, *, trust_remote_code: bool) -> Callable[..., Any]:
    """Return what loads the weights of a model by its auto class, and tells which are missing.

    A model may load more by itself, such as voices, and then tells nothing; its weights are loaded alone.
    """
    from transformers import PreTrainedModel

    own = kind._model_mapping.get(type(config), None)
    has_code = trust_remote_code and kind.__name__ in (getattr(config, "auto_map", None) or {})
    common = PreTrainedModel.from_pretrained.__func__
    if has_code or own is None or own.from_pretrained.__func__ is common:
        load: Callable[..., Any] = partial(kind.from_pretrained, trust_remote_code=trust_remote_code)
        return load
    return partial(common, own)


def tokenizer_of(given: Any) -> Any:
    """Return the tokenizer inside a processor, which would take text for images, or else what is given."""
    from transformers import ProcessorMixin

    return given.tokenizer if isinstance(given, ProcessorMixin) else given

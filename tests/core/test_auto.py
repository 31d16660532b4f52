"""The class that opens a model, by its config."""

import pytest
from transformers import AutoConfig

from unipruning_core.errors import CheckpointError
from unipruning_core.models.auto import auto_class

CAUSAL, IMAGE_TEXT = "AutoModelForCausalLM", "AutoModelForImageTextToText"


def chosen(kind, trust=False, **content):
    return auto_class("m", AutoConfig.for_model(kind, **content), trust_remote_code=trust).__name__


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("llama", {}, CAUSAL),
        ("llava", {}, IMAGE_TEXT),
        # several classes know it: with its tower, unless it says otherwise
        ("llama4", {}, IMAGE_TEXT),
        ("llama4", {"architectures": ["Llama4ForConditionalGeneration"]}, IMAGE_TEXT),
        ("llama4", {"architectures": ["Llama4ForCausalLM"]}, CAUSAL),
        # code that comes with the model is asked for only if there is no other, or it is trusted
        ("llava", {"auto_map": {CAUSAL: "code.Model"}}, IMAGE_TEXT),
        ("vit", {"auto_map": {CAUSAL: "code.Model"}}, CAUSAL),
    ],
)
def test_a_config_is_opened_by_the_class_that_it_names(kind, content, expected):
    assert chosen(kind, **content) == expected


def test_trusted_code_comes_first():
    assert chosen("llava", trust=True, auto_map={CAUSAL: "code.Model"}) == CAUSAL
    assert chosen("llava", trust=True, auto_map={"AutoModel": "code.Model"}) == IMAGE_TEXT


def test_a_model_of_images_alone_is_refused_by_its_kind():
    with pytest.raises(CheckpointError, match=r"model 'm' is a 'vit' model, .* none of that kind that writes text"):
        chosen("vit")

"""The class that opens a model, by its config."""

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from unipruning_core.errors import CheckpointError
from unipruning_core.models.auto import auto_class
from unipruning_core.models.loading import load_model

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


def test_a_class_with_a_loader_of_its_own_is_loaded_by_the_common_one(single, monkeypatch):
    def own(cls, *args, **options):
        model = super(LlamaForCausalLM, cls).from_pretrained(*args, **options)
        return model.with_voices()  # as Qwen2.5-Omni does, which fails on a pair of model and missing keys

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(own), raising=False)
    assert isinstance(load_model(single, torch.float32, "cpu"), LlamaForCausalLM)

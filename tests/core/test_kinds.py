"""Models that are no causal language models, or are saved as something else: refused in a sentence, or a note."""

import json

import pytest
import torch
from _checkpoints import changed, save_llama, save_text, save_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    GPT2Config,
    GPT2ForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError
from unipruning_core.jobs import opened
from unipruning_core.models.kinds import another_class, check_kind

SIZES = {"vocab_size": 48, "num_attention_heads": 2}
HIDDEN = {**SIZES, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
LLAMA = LlamaConfig(**HIDDEN, num_labels=1, pad_token_id=0, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=48, n_positions=64, n_embd=16, n_layer=2, n_head=2, num_labels=3)
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
BART = BartConfig(vocab_size=48, d_model=16, **LAYERS, encoder_attention_heads=2, decoder_attention_heads=2)
T5 = T5Config(vocab_size=48, d_model=16, d_ff=16, num_layers=2, num_heads=2, d_kv=8)
PLANNED = ("plan", "--seq-len", "16")
BOTH = " model with an encoder and a decoder, and only decoders can be pruned"
KINDS = {
    "tied classifier": (
        LlamaForSequenceClassification,
        LLAMA,
        "LlamaForSequenceClassification with a head 'score.weight'",
    ),
    "tokens": (GPT2ForTokenClassification, GPT2, "GPT2ForTokenClassification with a head 'classifier.bias'"),
    "answers": (
        BertForQuestionAnswering,
        BertConfig(**HIDDEN),
        "BertForQuestionAnswering with a head 'qa_outputs.bias'",
    ),
    "bart": (BartForConditionalGeneration, BART, f"'bart'{BOTH}"),
    "t5": (T5ForConditionalGeneration, T5, f"'t5'{BOTH}"),
    "vit": (
        ViTModel,
        ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        "'vit' model, and this version of transformers has none of that kind that writes text",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_causal_language_model_is_refused_before_anything_is_read(kind, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(opened, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    build, config, wanted = KINDS[kind]
    build(config).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    save_text(tmp_path / "text.txt")
    text = ["--data", tmp_path / "text.txt", "--seq-len", "16"]
    for words in (
        ["search", tmp_path / "model", *text, "--out", tmp_path / "out"],
        ["perplexity", tmp_path / "model", *text],
    ):
        error = refused(*words)
        assert f"model {str(tmp_path / 'model')!r} is a {wanted}" in error
        assert "; pass " in error
    assert wanted.partition(" with a head")[0] in refused(*PLANNED, tmp_path / "model")


def test_the_decoder_of_a_pair_that_was_saved_alone_is_one():
    model = BartForCausalLM(BART)
    model.config.architectures = ["BartForCausalLM"]
    check_kind("model", model.config)


@pytest.mark.parametrize("name", ["OwnForRewardModel", "OwnForProcessRewardModel", "OwnForMultipleChoice"])
def test_heads_of_classes_that_come_with_the_model_are_told_by_their_names(name):
    with pytest.raises(CheckpointError, match=f"is a {name}, not a causal"):
        check_kind("model", LlamaConfig(architectures=[name]))


@pytest.mark.parametrize("named", ["LlamaForCausalLM", [3, None], 7, {"a": 1}], ids=str)
def test_a_damaged_list_of_classes_is_passed_over(named):
    config = LlamaConfig(**HIDDEN)
    config.architectures = config.auto_map = named
    check_kind("model", config)


def command(folder, *words):
    save_tokenizer(folder)
    save_text(folder / "text.txt")
    text = ["--data", str(folder / "text.txt"), "--samples", "2", "--seq-len", "16", "--mode", "frozen"]
    return main(["search", str(folder), *text, *words, "--out", f"{folder}-run"])


def test_a_model_that_is_read_as_another_class_says_so_once(tmp_path, capfd):
    BertForMaskedLM(BertConfig(**HIDDEN, is_decoder=True)).save_pretrained(tmp_path / "model")
    assert command(tmp_path / "model") == 0
    said = capfd.readouterr().err
    assert said.count("the model was saved as a BertForMaskedLM and is read as a BertLMHeadModel") == 1


def test_a_model_of_its_own_class_says_nothing():
    assert another_class(AutoModelForCausalLM.from_config(LlamaConfig(**HIDDEN))) is None


@pytest.mark.parametrize("number", [1, 3])
def test_tensors_that_no_layer_uses_are_one_note(number, tmp_path, capfd):
    """Such as a head whose class the config does not name, or layers for several tokens at once."""

    def add(tensors):
        tensors |= {f"score.{index}.weight": torch.ones(2, 24) for index in range(number)}

    folder = changed(save_llama(tmp_path / "model"), add)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert command(folder) == 0
    others = f" and {number - 1} more" if number > 1 else ""
    noted = f"not part of the LlamaForCausalLM, and copied as it is: 'score.0.weight'{others}\n"
    assert capfd.readouterr().err.count(noted) == 1


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "base.inner."])
def test_a_prefix_of_all_names_is_named(prefix, tmp_path, refused):
    def wrap(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    folder = changed(save_llama(tmp_path / "model"), wrap)
    save_tokenizer(folder)
    save_text(tmp_path / "text.txt")
    text = ["--data", tmp_path / "text.txt", "--seq-len", "16"]
    for words in (["search", folder, *text, "--out", tmp_path / "out"], ["perplexity", folder, *text]):
        error = refused(*words)
        assert f"the names of all 21 tensors in {str(folder)!r} begin with {prefix!r}" in error
        assert error.endswith("or remove that prefix from the names")


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"])
def test_a_shape_that_is_not_the_configs_is_named_with_both(name, tmp_path, refused):
    def grow(tensors):
        tensors[name] = torch.cat([tensors[name], tensors[name][:4]])

    folder = changed(save_llama(tmp_path / "model"), grow)
    save_tokenizer(folder)
    save_text(tmp_path / "text.txt")
    text = ["--data", tmp_path / "text.txt", "--seq-len", "16"]
    search = ["--samples", "2", "--out", tmp_path / "out"]
    shapes = (
        "is (52, 24) in the checkpoint but (48, 24)" if "norm" not in name else "is (28,) in the checkpoint but (24,)"
    )
    for words in (["search", folder, *text, *search], ["perplexity", folder, *text]):
        assert f"tensor {name!r} {shapes} by its config; " in refused(*words)

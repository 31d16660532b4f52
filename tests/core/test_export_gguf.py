"""GGUF: what transformers and check-zeros read back from a file, tokens included, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from _checkpoints import changed, content, save_gpt2
from _exported import HIDDEN, SPLITS, VOCABULARY, edit_json, pruned_of, save_model
from safetensors.torch import load_file

import unipruning
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.builtin import gguf as plugin
from unipruning_core.export.contract import Choice
from unipruning_core.export.gguf_file import Gguf
from unipruning_core.export.gguf_model import Described
from unipruning_core.export.gguf_tokenizer import SPLITS as EXPRESSIONS
from unipruning_core.export.source import Source
from unipruning_core.progress import Progress

gguf = pytest.importorskip("gguf")
SPEC = plugin.unipruning_exporter()
KINDS = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"head_dim": 32}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"max_window_layers": 2}),
    # transformers takes heads of a qwen3 in GGUF to be 128 wide, whatever the file says
    ("qwen3", {"head_dim": 128, "max_window_layers": 2}),
]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned llama, never changed."""
    place = tmp_path_factory.mktemp("gguf")
    return pruned_of(save_model(place / "model"), place / "pruned")


def export(folder, out, type=None, **options):
    """Export, and return the file."""
    done = unipruning.export(folder, out, "gguf", type=type, progress=False, **options)
    return out / done.files[0]


def logits_of(folder, **options):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    with torch.no_grad():
        return model(torch.arange(24)[None] * 11 % VOCABULARY).logits


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_transformers_reads_the_model_that_was_pruned(kind, options, tmp_path):
    folder = pruned_of(save_model(tmp_path / "model", kind, dtype=torch.float32, **options), tmp_path / "pruned")
    file = export(folder, tmp_path / "out")
    assert file.name == "model-F32.gguf"
    there, back = logits_of(folder), logits_of(tmp_path / "out", gguf_file=file.name)
    assert torch.allclose(there, back, atol=2e-5), (there - back).abs().max()
    assert there.std() > 0.01
    overall = unipruning.check_zeros(folder, file, progress=False).overall
    assert (overall.fraction, overall.broken_groups, overall.became_zero) == (1.0, 0, 0)


@pytest.mark.parametrize("name", SPEC.types)
def test_every_type_is_read_back_and_only_those_that_lose_zeros_lose_them(name, pruned, tmp_path):
    if name in SPEC.losing:
        with pytest.raises(ConfigError, match=f"{name} turns the zeros .* Q4_0, MXFP4, or pass --force"):
            export(pruned, tmp_path / "out", name)
    file = export(pruned, tmp_path / "out", name, force=True)
    checked = unipruning.check_zeros(pruned, file, progress=False)
    assert {matrix.stored for matrix in checked.matrices} == {"BF16" if name == "auto" else name}
    assert (checked.overall.fraction == 1) == (name not in SPEC.losing)
    assert (checked.overall.broken_groups == 0) == (name not in SPEC.losing)
    stored = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert {stored["blk.0.attn_norm.weight"], stored["output_norm.weight"]} == {"F32"}
    longer = checked.matrices[0].stored if name in ("auto", "F32", "F16", "BF16", "Q8_0") else "Q8_0"
    assert {stored["token_embd.weight"], stored["output.weight"]} == {longer}


def test_biases_lie_as_the_rows_of_their_weights(tmp_path):
    """transformers reads no biases of a llama from GGUF."""
    folder = save_model(tmp_path / "model", attention_bias=True, mlp_bias=True)
    pruned, (heads, keys, side) = pruned_of(folder, tmp_path / "pruned"), (4, 2, HIDDEN // 4)
    here = load_file(pruned / "model.safetensors")
    there = {tensor.name: tensor.data for tensor in gguf.GGUFReader(export(pruned, tmp_path / "out")).tensors}
    for name, count in (("q", heads), ("k", keys), ("v", None)):
        bias = here[f"model.layers.1.self_attn.{name}_proj.bias"].float()
        if count:
            halves = [bias[head * side :][:side].view(2, -1) for head in range(count)]
            bias = torch.stack([half[:, pair] for half in halves for pair in range(side // 2)]).flatten()
        assert there[f"blk.1.attn_{name}.bias"].tolist() == bias.tolist()
    assert there["blk.0.ffn_down.bias"].tolist() == here["model.layers.0.mlp.down_proj.bias"].tolist()


def test_two_exports_give_the_same_bytes(pruned, tmp_path):
    for name in ("one", "other"):
        export(pruned, tmp_path / name, "Q8_0")
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_rows_that_do_not_divide_into_blocks_are_floats(tmp_path):
    folder = pruned_of(save_model(tmp_path / "model", hidden=48), tmp_path / "pruned")
    done = unipruning.export(folder, tmp_path / "out", "gguf", type="Q4_0", progress=False)
    assert "model.layers.0.self_attn.q_proj.weight" in done.details["unfit"]
    assert "model.layers.0.mlp.down_proj.weight" not in done.details["unfit"]
    checked = unipruning.check_zeros(folder, tmp_path / "out" / done.files[0], progress=False)
    assert {m.name.split(".")[-2]: m.stored for m in checked.matrices} == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), "F16"),
        "down_proj": "Q4_0",
    }
    assert checked.overall.fraction == 1


def test_the_scaling_of_llama_3_is_that_of_transformers(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    options = {"rope_scaling": rope, "rope_parameters": rope, "head_dim": 32, "max_position_embeddings": 512}
    folder = pruned_of(save_model(tmp_path / "model", **options), tmp_path / "pruned")
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(folder), torch.device("cpu"))
    plain = 500000.0 ** -(torch.arange(0, 32, 2) / 32)
    found = Described.of(Source.open(folder, Progress())).frequencies()
    assert torch.allclose(plain / found, scaled, rtol=1e-5)
    assert len(set(found.tolist())) > 1, "some are scaled and some are not"
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(export(folder, tmp_path / "out")).tensors}
    assert torch.equal(torch.tensor(tensors["rope_freqs.weight"].data), found)


@pytest.mark.parametrize("split", SPLITS)
def test_the_tokenizer_is_read_back(split, tmp_path):
    from transformers import AutoTokenizer

    folder = save_model(tmp_path / "model")
    edit_json(folder / "tokenizer.json", lambda document: document.update(pre_tokenizer=SPLITS[split]))
    file = export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out")
    reader = gguf.GGUFReader(file)
    values = {key: reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("model", "pre", "tokens")}
    assert (values["model"], values["pre"]) == ("gpt2", split)
    assert len(values["tokens"]) == VOCABULARY
    assert values["tokens"][-1] == f"[PAD{VOCABULARY - 1}]"
    types = reader.get_field("tokenizer.ggml.token_type").contents()
    assert (types[0], types[1], types[-1]) == (3, 1, 5), "control, normal and unused"
    text = "the other one wäs there\n\n and 12 then"
    here = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    there = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=file.name)
    assert here(text)["input_ids"] == there(text)["input_ids"]


@pytest.mark.parametrize(("name", "expression"), [(name, expression) for expression, name in EXPRESSIONS.items()])
def test_the_expressions_of_known_tokenizers_are_named(name, expression, tmp_path):
    steps = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
    ]

    def change(document):
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        document["model"]["ignore_merges"] = name == "llama-bpe"
        document["normalizer"] = {"type": "NFC"} if name == "qwen2" else None

    folder = save_model(tmp_path / "model")
    edit_json(folder / "tokenizer.json", change)
    reader = gguf.GGUFReader(export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out"))
    assert reader.get_field("tokenizer.ggml.pre").contents() == name


def test_a_tokenizer_of_sentencepiece_has_its_scores(tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    folder = save_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    text = iter(["the other one is there and then another one was here"] * 3)
    options = {"vocab_size": 280, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 3}
    with (folder / "tokenizer.model").open("wb") as file:
        pieces.SentencePieceTrainer.train(sentence_iterator=text, model_writer=file, model_type="bpe", **options)
    reader = gguf.GGUFReader(export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out"))
    read = {key: reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("model", "tokens", "scores")}
    processor = pieces.SentencePieceProcessor(str(folder / "tokenizer.model"))
    count = processor.vocab_size()
    assert read["model"] == "llama"
    assert read["tokens"][:count] == [processor.IdToPiece(token) for token in range(count)]
    assert read["scores"][:count] == pytest.approx([processor.GetScore(token) for token in range(count)])
    assert len(read["tokens"]) == VOCABULARY


def remove_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def unknown_split(folder):
    edit_json(folder / "tokenizer.json", lambda document: document.update(pre_tokenizer={"type": "Whitespace"}))


def not_json(folder):
    (folder / "tokenizer.json").write_text("[")


def scaled_otherwise(folder):
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    edit_json(folder / "config.json", lambda config: config.update(rope_parameters=scaling, rope_scaling=scaling))


def another_tensor(folder):
    changed(folder, lambda tensors: tensors.update({"model.layers.0.other.weight": torch.ones(HIDDEN)}))


def biased(folder):
    edit_json(folder / "config.json", lambda config: config.update(model_type="qwen3", attention_bias=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (biased, "GGUF is not written for attention_bias True of"),
        (remove_tokenizer, "has no tokenizer.json; copy the tokenizer of the model there"),
        (not_json, "tokenizer.json' cannot be read: "),
        (unknown_split, r"\(BPE, split by Whitespace\) is none of those .*convert_hf_to_gguf.py of llama.cpp"),
        (scaled_otherwise, "not written for rope_type 'dynamic' of .*; convert the folder as it is with convert_hf_to"),
        (another_tensor, "gguf has no name for the tensor 'model.layers.0.other.weight' of 'llama'; convert the"),
    ],
)
def test_what_is_not_known_is_refused_and_nothing_is_left(change, message, tmp_path):
    folder = save_model(tmp_path / "model")
    change(folder)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "pruned"]


def test_another_architecture_is_sent_to_the_converter_of_llama_cpp(tmp_path):
    folder = pruned_of(save_gpt2(tmp_path / "model"), tmp_path / "pruned", "50%")
    with pytest.raises(ConfigError, match=r"GGUF is written for llama, mistral, qwen2, qwen3, and .* is 'gpt2'"):
        export(folder, tmp_path / "out")


def test_a_type_that_an_older_gguf_lacks_is_refused(pruned):
    with pytest.raises(ConfigError, match="the installed package gguf has no type Q9_9; pip install --upgrade gguf"):
        Gguf().size(Source.open(pruned, Progress()), Choice("Q9_9"))


@pytest.mark.parametrize("same", [True, False])
def test_an_output_layer_is_left_out_only_where_it_is_the_embedding(same, tmp_path):
    folder = save_model(tmp_path / "model", tie_word_embeddings=True)

    def untie(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding.clone() if same else embedding + 1

    changed(folder, untie)
    reader = gguf.GGUFReader(export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out"))
    assert ("output.weight" in {tensor.name for tensor in reader.tensors}) is not same


def test_more_tokens_than_rows_are_refused(tmp_path):
    folder = save_model(tmp_path / "model", vocab_size=100)
    with pytest.raises(CheckpointError, match="tokens and the embedding 100 rows; copy the tokenizer of the model"):
        export(pruned_of(folder, tmp_path / "pruned"), tmp_path / "out")


def test_a_weight_beyond_float16_is_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    changed(folder, lambda tensors: tensors["lm_head.weight"][0].fill_(1e6))
    pruned = pruned_of(folder, tmp_path / "pruned")
    with pytest.raises(ConfigError, match=r"'lm_head.weight' does not fit in float16; choose --type BF16 or F32"):
        export(pruned, tmp_path / "out", "F16")
    assert not (tmp_path / "out").exists()
    export(pruned, tmp_path / "out", "BF16")


def test_the_record_names_type_and_sparsity(pruned, tmp_path):
    file = export(pruned, tmp_path / "out", "Q8_0")
    record = json.loads((tmp_path / "out" / "unipruning-export.json").read_text())
    assert (record["to"], record["type"], record["sparsity"]) == ("gguf", "Q8_0", "2:4")
    assert list(record["files"]) == [file.name]
    assert gguf.GGUFReader(file).get_field("general.name").contents() == "llama pruned 2:4"


def test_the_type_of_the_weights_is_told_where_none_was_asked_for(pruned, tmp_path):
    done = unipruning.export(pruned, tmp_path / "out", "gguf", progress=False)
    record = json.loads((tmp_path / "out" / "unipruning-export.json").read_text())
    assert (done.type, record["type"], done.to_json()["type"]) == ("BF16",) * 3


def test_without_the_package_the_command_says_what_to_install(pruned, tmp_path, monkeypatch, refused):
    monkeypatch.delitem(sys.modules, "gguf")
    monkeypatch.setattr("unipruning_core.export.builtin.find_spec", lambda name: None)
    said = refused("export", pruned, "--to", "gguf", "--out", tmp_path / "out")
    assert "it needs the package gguf, which is not installed; pip install gguf" in said

"""Models that also take images: the text decoder is pruned, calibrated on text, and all else stays as it was."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from _image_text import FILES, KINDS, NEEDING_IMAGES, TARGETS, built, save_image_text
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoTokenizer, ProcessorMixin

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.data.perplexity import perplexity
from unipruning_core.data.text import TextChoice
from unipruning_core.models.decoder import bare_decoder, decoder_blocks, text_model
from unipruning_core.models.outline import header_of, outline
from unipruning_core.models.targets import find_targets
from unipruning_core.models.towers import PROJECTOR
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.plan.trace import trace_sample

SHORT = ["--samples", "3", "--seq-len", "16", "--backend", "cpu"]


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory):
    return save_image_text(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_image_text(tmp_path_factory.mktemp("llava"), "llava")


def calibrated(place):
    return [str(place / "model"), "--data", str(place / "text.txt"), *SHORT]


def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


def ids():
    return torch.randint(1, 31, (1, 24), generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_the_text_decoder_alone_is_pruned_and_every_file_comes_along(place, mode, tmp_path):
    sparsities = ["--sparsity", "50%/row", "--sparsity", "2:4", "--sparsity", "60%/global"]
    assert main(["prune", *calibrated(place), "--mode", mode, *sparsities, "--out", str(tmp_path / "out")]) == 0
    original = load_file(place / "model" / "model.safetensors")
    for name, ratio in {"50-row": 0.5, "2-4": 0.5, "60-global": 0.6}.items():
        out = tmp_path / "out" / name
        pruned, masks = load_file(out / "model.safetensors"), unipruning.read_masks(out)
        kept = {target.name: masks.read(target.name) for target in masks.targets}
        assert len(kept) == TARGETS
        weights = sum(mask.numel() for mask in kept.values())
        assert sum(int(mask.sum()) for mask in kept.values()) == weights - round(ratio * weights)
        for tensor, value in original.items():
            assert torch.equal(pruned[tensor], value * kept[tensor] if tensor in kept else value), tensor
        for file in FILES:
            assert (out / file).read_bytes() == (place / "model" / file).read_bytes()


def test_the_output_gives_the_logits_of_the_original_masked_in_memory(place, tmp_path):
    out = unipruning.prune(
        str(place / "model"),
        sparsity="2:4",
        mode="frozen",
        data=str(place / "text.txt"),
        samples=3,
        seq_len=16,
        out=tmp_path / "out",
        progress=False,
    )[0].path
    model, tokenizer = loaded(place / "model"), AutoTokenizer.from_pretrained(place / "model")
    dense = model(input_ids=ids()).logits
    masks = unipruning.prune(
        model, tokenizer, sparsity="2:4", mode="frozen", data=str(place / "text.txt"), samples=3, seq_len=16
    )
    assert len(masks) == TARGETS
    here, there = model(input_ids=ids()).logits, loaded(out)(input_ids=ids()).logits
    assert torch.equal(here, there)
    assert not torch.equal(here, dense)


def test_a_processor_serves_as_the_tokenizer_inside_it(llava):
    tokenizer = AutoTokenizer.from_pretrained(llava / "model")
    processor = ProcessorMixin.__new__(ProcessorMixin)
    processor.tokenizer = tokenizer
    found = [
        unipruning.perplexity(loaded(llava / "model"), given, data=str(llava / "text.txt"), seq_len=24, windows=2)
        for given in (tokenizer, processor)
    ]
    assert found[0] == found[1]


def test_perplexity_is_that_of_the_models_own_logits(place):
    model, tokenizer = loaded(place / "model"), AutoTokenizer.from_pretrained(place / "model")
    text = TextChoice(str(place / "text.txt")).load("test")
    found = perplexity(model, tokenizer, text, seq_len=24, windows=3)
    tokens = tokenizer(text.documents[0], return_tensors="pt").input_ids[:, :72].view(3, 24)
    with torch.no_grad():
        losses = [cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:]) for row in tokens]
    assert found.nll == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_sparsegpt_and_a_plan_take_the_text_decoder(llava, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["compare-sparsegpt", *calibrated(llava), "--sparsity", "50%", "--out", out]) == 0
    original = load_file(llava / "model" / "model.safetensors")
    pruned = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in original if not torch.equal(original[name], pruned[name])}
    assert changed == {target.name for target in unipruning.read_masks(tmp_path / "out").targets}
    assert len(changed) == TARGETS
    capsys.readouterr()
    assert main(["plan", str(llava / "model"), "--seq-len", "16"]) == 0
    assert f"{TARGETS} targets with" in capsys.readouterr().out


def test_a_sample_is_traced_without_weights_and_without_drawing_any(place):
    traced = trace_sample(outline(str(place / "model")), 16, backward=True)
    assert traced.flops > 0
    assert traced.activations > 0


def test_every_matrix_beside_the_decoder_is_said_to_be_what_it_is():
    model = built("llava")
    _, left_out = find_targets(model, Checkpoint(Path("llava"), (), header_of(model)))
    reasons = Counter(part.why for part in left_out if part.name.startswith("model.vision_tower."))
    assert set(reasons) == {"part of the vision tower"}
    others = {part.name: part.why for part in left_out if not part.name.startswith("model.vision_tower.")}
    assert others == {
        "model.multi_modal_projector.linear_1.weight": PROJECTOR,
        "model.multi_modal_projector.linear_2.weight": PROJECTOR,
        "model.language_model.embed_tokens.weight": "an embedding",
        "lm_head.weight": "the output layer",
    }


@pytest.mark.parametrize("kind", NEEDING_IMAGES)
def test_a_model_that_needs_images_is_calibrated_through_the_language_model_inside(kind, tmp_path):
    model = built(kind)
    with pytest.raises(TypeError, match="pixel_values"):
        model(input_ids=ids())
    assert text_model(model) is model.language_model
    assert bare_decoder(model) is model.language_model.model
    place = save_image_text(tmp_path, kind)
    for mode in ("feedback", "frozen"):
        words = [*calibrated(place), "--mode", mode, "--sparsity", "50%/row", "--out", str(tmp_path / mode)]
        assert main(["prune", *words]) == 0
        targets = unipruning.read_masks(tmp_path / mode).targets
        assert {target.name.split(".")[0] for target in targets} == {"language_model"}
    assert main(["perplexity", *calibrated(place)[:3], "--seq-len", "16"]) == 0


def test_the_decoder_is_found_where_only_the_config_tells_it_from_a_larger_tower():
    model = built("llava")
    model.get_decoder = lambda: model.model  # holds the tower too
    model.config.text_config.num_hidden_layers = 3  # as many as the tower has
    assert decoder_blocks(model)[0] == "model.language_model.layers"

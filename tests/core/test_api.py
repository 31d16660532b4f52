"""The Python functions: the same masks and messages on disk and in memory, and no change left behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from _checkpoints import WORDS, save_gpt2, save_llama, save_text, save_tokenizer
from _mixtures import save_mixture
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.data.text import TextChoice
from unipruning_core.jobs.in_memory import InMemory
from unipruning_core.progress import Progress
from unipruning_core.search.modes import MODES
from unipruning_core.storage import checkpoint as checkpoint_module
from unipruning_core.storage.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
SHORT = {"samples": 4, "seq_len": 16, "progress": False}
SPARSITIES = ["50%", "60%/row", "70%/global", "60%/matrix", "2:4"]


SAVED = {
    "llama": lambda folder: save_llama(folder, dtype=torch.float32),
    "gpt2": save_gpt2,
    "one tensor an expert": save_mixture,
    "experts in one tensor": lambda folder: save_mixture(folder, "of_one_tensor_for_all"),
}


@pytest.fixture(scope="module", params=SAVED)
def place(request, tmp_path_factory):
    """A folder with ``model``, its tokenizer and ``text.txt``."""
    folder = tmp_path_factory.mktemp("place")
    SAVED[request.param](folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    return folder


def loaded(place):
    return AutoModelForCausalLM.from_pretrained(place / "model"), AutoTokenizer.from_pretrained(place / "model")


def named(place):
    return {**SHORT, "data": str(place / "text.txt")}


def state(model):
    """Each parameter's weight, ``requires_grad`` and gradient."""
    return [
        (p.detach().clone(), p.requires_grad, p.grad if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]


def same(one, other):
    return one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_in_memory_gets_the_masks_of_the_same_model_on_disk(place, mode, tmp_path):
    written = unipruning.prune(
        str(place / "model"), sparsity=SPARSITIES, mode=mode, out=tmp_path / "out", dtype="float32", **named(place)
    )
    for projected, sparsity in zip(written, SPARSITIES, strict=True):
        model, tokenizer = loaded(place)
        masks = unipruning.prune(model, tokenizer, sparsity=sparsity, mode=mode, **named(place))
        on_disk = AutoModelForCausalLM.from_pretrained(projected.path)
        for (name, here), there in zip(model.named_parameters(), on_disk.parameters(), strict=True):
            assert torch.equal(here, there), name
            if name in masks:
                assert not here[~masks[name]].any()
        stored = unipruning.read_masks(projected.path)
        kept = sum(int(stored.read(target.name).sum()) for target in stored.targets)
        assert kept == sum(int(mask.sum()) for mask in masks.values())
        for target in stored.targets:
            name = target.name if target.name in masks else f"transformer.{target.name}"
            if name in masks:
                mask = masks[name].t() if target.transposed else masks[name]
                assert torch.equal(mask, stored.read(target.name))


@pytest.mark.parametrize("mode", MODES)
def test_a_search_leaves_a_model_in_memory_unchanged(place, mode):
    model, tokenizer = loaded(place)
    model.train()
    model.lm_head.eval()
    first = next(model.parameters())
    first.requires_grad_(False)
    for parameter in list(model.parameters())[2:5]:
        parameter.grad = torch.ones_like(parameter)
    before, training = state(model), [module.training for module in model.modules()]
    moved = {"learning_rate": 0.1} if MODES[mode].follows_loss else {}
    scores = unipruning.search(model, tokenizer, mode=mode, **moved, **named(place))
    for (weight, required, gradient), (now, requires, kept) in zip(before, state(model), strict=True):
        assert torch.equal(weight, now)
        assert required == requires
        assert same(gradient, kept)
    assert training == [module.training for module in model.modules()]
    assert len(scores.losses) == (4 if MODES[mode].follows_loss else 0)
    unipruning.project(model, scores, sparsity="50%", progress=False)


def test_scores_are_projected_again_and_again_but_not_on_other_weights(place):
    model, tokenizer = loaded(place)
    scores = unipruning.search(model, tokenizer, mode="frozen", **named(place))
    for sparsity, least in (("50%", 0.5), ("70%/row", 0.69)):
        masks = unipruning.project(model, scores, sparsity=sparsity, progress=False)
        pruned = sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        assert pruned == pytest.approx(least, abs=0.02)
    with torch.no_grad():
        next(iter(model.parameters())).add_(1.0)
    with pytest.raises(unipruning.UnipruningError, match="weights are not those that the scores were made from"):
        unipruning.project(model, scores, sparsity="80%", progress=False)


def test_scores_that_are_not_finite_leave_the_model_as_it_was(place):
    model, tokenizer = loaded(place)
    scores, before = unipruning.search(model, tokenizer, mode="frozen", **named(place)), state(model)
    scores.duals[scores.targets[-1].name][0, 0] = float("nan")
    with pytest.raises(unipruning.UnipruningError, match="NaN or infinite"):
        unipruning.project(model, scores, sparsity="50%/row", progress=False)
    assert all(torch.equal(weight, now) for (weight, *_), (now, *_) in zip(before, state(model), strict=True))


def test_the_fingerprint_in_memory_is_that_of_the_saved_checkpoint(place):
    model, tokenizer = loaded(place)
    saved = Checkpoint.open(place / "model")
    live = InMemory(model, tokenizer, None, Progress())
    assert list(live.checkpoint.tensors) == list(saved.tensors)
    assert live.fingerprint() == saved.fingerprint()


def test_perplexity_in_memory_is_that_on_disk(place):
    model, tokenizer = loaded(place)
    model.train()
    options = {"data": str(place / "text.txt"), "seq_len": 16, "windows": 5, "progress": False}
    here = unipruning.perplexity(model, tokenizer, **options)
    there = unipruning.perplexity(place / "model", dtype="float32", **options)
    assert here == there
    assert model.training


def test_texts_in_memory_are_calibrated_on(place):
    model, tokenizer = loaded(place)
    texts = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(8)]
    scores = unipruning.search(model, tokenizer, mode="frozen", data=texts, samples=3, seq_len=16, progress=False)
    assert scores.provenance["data"]["source"] == "8 texts in memory"
    with pytest.raises(unipruning.UnipruningError, match="must be strings, not int"):
        TextChoice(["a", 3]).load("train")
    with pytest.raises(unipruning.UnipruningError, match="texts in memory are empty"):
        TextChoice([" "]).load("train")


def test_progress_is_shown_on_standard_error_unless_it_is_turned_off(place, capfd):
    model, tokenizer = loaded(place)
    capfd.readouterr()
    unipruning.search(model, tokenizer, mode="frozen", **named(place))
    assert capfd.readouterr() == ("", "")
    unipruning.search(model, tokenizer, mode="frozen", **{**named(place), "progress": True})
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "target layers" in shown.err
    assert "frozen: 4 samples in " in shown.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": "there"}, "out=... is for a model on disk; omit it for a model in memory"),
        ({"run": "there"}, "run=... is for a model on disk"),
        ({"dtype": "float16"}, "dtype=... is for a model on disk"),
        ({"overwrite": True}, "overwrite=... is for a model on disk"),
        ({"trust_remote_code": True}, "trust_remote_code=... is for a model on disk"),
        ({"save_every": 1.0}, "save_every=... is for a model on disk"),
        ({"sparsity": ["50%", "60%"]}, "a model in memory takes one sparsity, not 2"),
        ({"sparsity": "0.6"}, "sparsity '0.6' is neither"),
        ({"sparsity": "3:16"}, "needs a multiple of 16 inputs"),
        ({"mode": "frozen", "coupling": 1.0}, "--coupling is for --mode coupled"),
        ({"mode": unipruning.FrozenSettings(), "seed": 1}, "inside the FrozenSettings passed as mode: seed"),
        ({"backend": "abacus"}, "no backend is called 'abacus'"),
        ({"data": "nowhere.txt"}, "nowhere.txt"),
        ({"samples": 0}, "needs --samples >= 1"),
        ({"tokenizer": None}, "needs its tokenizer"),
        ({"model": torch.nn.Linear(2, 2)}, "a transformers model, not a Linear"),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_wrong_options_cost_one_sentence(place, options, says):
    model, tokenizer = loaded(place)
    before = state(model)
    options = {"model": model, "tokenizer": tokenizer, "sparsity": "50%", **named(place), **options}
    with pytest.raises(unipruning.UnipruningError, match=re.escape(says)) as caught:
        unipruning.prune(**options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(weight, now) for (weight, *_), (now, *_) in zip(before, state(model), strict=True))


def test_a_model_on_disk_needs_a_place_for_what_is_written(place):
    for call in (unipruning.prune, unipruning.search):
        words = {"sparsity": "50%"} if call is unipruning.prune else {}
        with pytest.raises(unipruning.UnipruningError, match="pass out="):
            call(str(place / "model"), **words, **named(place))


def test_a_keyword_that_would_do_nothing_is_refused_by_every_function(place):
    model, tokenizer = loaded(place)
    text = {"data": str(place / "text.txt")}
    with pytest.raises(unipruning.UnipruningError, match=r"overwrite=... is for a model on disk"):
        unipruning.search(model, tokenizer, overwrite=True, **text)
    with pytest.raises(unipruning.UnipruningError, match=r"dtype=... is for a model on disk"):
        unipruning.perplexity(model, tokenizer, dtype="float16", **text)
    scores = unipruning.search(model, tokenizer, mode="frozen", **named(place))
    with pytest.raises(unipruning.UnipruningError, match=r"overwrite=... is for a model on disk"):
        unipruning.project(model, scores, sparsity="50%", overwrite=True)
    for call, words in ((unipruning.search, {"out": place / "run"}), (unipruning.perplexity, {})):
        with pytest.raises(unipruning.UnipruningError, match="is a folder or a hub id, not a "):
            call(place / "model", tokenizer, **words, **text)


def test_a_model_that_is_not_finite_is_refused_before_its_first_sample(place):
    model, tokenizer = loaded(place)
    with torch.no_grad():
        InMemory(model, tokenizer, None, Progress()).layers[0].parameter[0, 0] = float("nan")
    with pytest.raises(unipruning.UnipruningError, match="weights that are NaN or infinite"):
        unipruning.search(model, tokenizer, **named(place))


def test_prune_reads_each_shard_header_once(home, tmp_path, monkeypatch):
    read, original = [], checkpoint_module.read_header
    save_llama(tmp_path / "model", dtype=torch.float32, shards=True)
    save_tokenizer(tmp_path / "model")
    monkeypatch.setattr(checkpoint_module, "read_header", lambda path: (read.append(path.name), original(path))[1])
    unipruning.prune(tmp_path / "model", sparsity="50%", out=tmp_path / "out", **named(home))
    assert sorted(read) == sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))


def test_the_examples_of_the_docs_run(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink(home / "model", "MODEL")
    text = (home / "text.txt").read_text()
    Path("calibration.jsonl").write_text("\n".join(f'{{"text": "{text}"}}' for _ in range(30)))
    Path("test.txt").write_text(text)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "pruned" / "model.safetensors").is_file()
    assert (names["kept"].unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert "--learning-rate is for --mode feedback, drift or coupled" in capsys.readouterr().out
    pruned = names["model"].model.layers[0].mlp.up_proj.weight
    assert ((pruned != 0).sum(dim=1) == pruned.shape[1] // 2).all()

"""The Python of the pages, run from top to bottom with a tiny model for the one of which the page speaks."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from _blocks import BLOCKS, ROOT
from _tuning import TOKENS, left_of, prune
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.search.modes import MODES


def python_of(page: str) -> list[str]:
    return [
        block.text
        for block in BLOCKS
        if block.page == ROOT / page and block.language == "python" and not block.why_not_run
    ]


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A folder with a model, the same one after training, texts, and a checkpoint that was pruned from the model."""
    monkeypatch.chdir(tmp_path)
    Path("MODEL").symlink_to(home / "model")
    Path("calibration.jsonl").write_text(f'{{"text": "{(home / "text.txt").read_text()}"}}\n' * 30)
    return tmp_path


@pytest.fixture
def pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return prune(tmp_path)


def test_the_first_page(here):
    (block,) = python_of("docs/index.md")
    exec(block.replace("tokenizer, sparsity", "tokenizer, samples=4, seq_len=16, sparsity"), {})
    assert Path("pruned/model.safetensors").is_file()


def test_scores_of_your_own(here, capsys):
    tuned = AutoModelForCausalLM.from_pretrained("MODEL")
    weight = tuned.model.layers[0].mlp.up_proj.weight
    moved = weight.shape[1] // 2
    weight.data[:, :moved] += 1.0
    tuned.save_pretrained("TUNED")
    (block,) = python_of("docs/own-scores.md")
    exec(block, {})
    assert "moved-50" in capsys.readouterr().out
    kept = unipruning.read_masks("moved-50").read("model.layers.0.mlp.up_proj.weight")
    assert kept[:, :moved].all()
    assert not kept[:, moved:].any()


def test_a_mode_of_your_own(here, monkeypatch):
    modules = {}
    for block in python_of("docs/adding-a-mode.md"):
        path = block.partition("\n")[0].removeprefix("# ").removesuffix(".py")
        module = modules[path] = ModuleType(path.replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(block, vars(module))
    settings = modules["unipruning_core/search/modes/power"].PowerSettings
    monkeypatch.setitem(MODES, "power", settings)
    words = "prune MODEL --mode power --magnitude-exponent 3 --sparsity 50% --out pruned --samples 1 --seq-len 16"
    assert main([*words.split(), "--data", "calibration.jsonl"]) == 0
    weight = AutoModelForCausalLM.from_pretrained("pruned").model.layers[0].mlp.up_proj.weight
    assert ((weight != 0).sum(dim=1) == weight.shape[1] // 2).all()


def test_a_loop_with_the_masks_held(pruned):
    block = python_of("docs/tuning.md")[0]
    exec(block, {"AutoModelForCausalLM": AutoModelForCausalLM})
    assert left_of(Path("tuned"), pruned)[0] == 0


def test_a_trainer_with_the_masks_held(pruned):
    texts = [{"input_ids": row % 48, "labels": row % 48} for row in TOKENS]
    names = {
        "Trainer": Trainer,
        "model": AutoModelForCausalLM.from_pretrained("pruned", dtype="float32"),
        "arguments": TrainingArguments("run", max_steps=2, learning_rate=1e-2, use_cpu=True, report_to=[]),
        "texts": texts,
        "unipruning": unipruning,
    }
    block = python_of("docs/tuning.md")[1]
    assert "train_dataset=..." in block
    exec(block.replace("train_dataset=...", "train_dataset=texts"), names)
    lost, still = left_of(Path("tuned"), pruned)
    assert lost == 0
    assert still < 1000


# peft asks transformers by a name that is to go
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_that_are_merged(pruned):
    from peft import LoraConfig, get_peft_model

    names = {"AutoModelForCausalLM": AutoModelForCausalLM, "unipruning": unipruning}
    exec(python_of("docs/tuning.md")[2], names | {"LoraConfig": LoraConfig, "get_peft_model": get_peft_model})
    assert left_of(Path("tuned"), pruned)[0] == 0


def test_the_tutorial(home, tmp_path, monkeypatch, capsys):
    """Every command after those that install and fetch, and what is asked of the results."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "model", "model")
    Path("model/chat_template.jinja").write_text("{{ messages[0].content }}")
    for name in ("c4.utf8", "wiki.utf8"):
        shutil.copy(home / "text.txt", name)
    commands = [
        command
        for block in BLOCKS
        if block.page == ROOT / "docs" / "tutorial.md" and not block.why_not_run
        for command in block.commands()
        if command.startswith("unipruning ") and " demo" not in command
    ]
    # the tokenizer of the tiny model has no form in GGUF
    *commands, export, check = commands
    assert [words.split()[1] for words in commands] == ["backends", "targets", "prune", "perplexity", "project"]
    assert "--to gguf" in export
    assert ".gguf" in check
    for command in commands:
        small = command.replace("--samples 32", "--samples 4").replace("--seq-len 512", "--seq-len 16")
        assert main(small.split()[1:]) == 0
    (block,) = python_of("docs/tutorial.md")
    exec(block, {})
    assert capsys.readouterr().out.count(" says: ") == 3

"""Starting up: what a command refuses before it imports anything heavy, and what the start of a search costs."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from unipruning_core.startup import collector_at_rest

AUTO_CLASSES = "import torch, transformers; from transformers import AutoConfig, AutoTokenizer, AutoModelForCausalLM"
HEAVY = ("torch", "transformers", "datasets", "numpy", "pyarrow", "huggingface_hub")
TRIES = 3  # a busy machine may make one start dear
# runs commands in a process of its own, and prints for each its exit code and what it has imported
PROGRAM = """
import json, sys
from unipruning_core.cli.main import main
commands, names = json.loads(sys.argv[1])
found = []
for words in commands:
    code = main(words)
    found.append([code, [name for name in names if name in sys.modules]])
print(json.dumps(found))
"""


def imported_by(commands, names):
    words = [sys.executable, "-c", PROGRAM, json.dumps([commands, names])]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def cpu_seconds(*words, around=None):
    """The processor time of a Python process and of those it starts."""
    before = os.times()
    subprocess.run([sys.executable, *words], capture_output=True, timeout=300, check=False, env=around)
    after = os.times()
    return sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))


def test_what_is_misspelt_is_refused_before_anything_heavy_is_imported(home, tmp_path):
    model, text, out = str(home / "model"), str(home / "text.txt"), ["--out", str(tmp_path / "out")]
    for name in ("run", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    run, data, half = str(tmp_path / "run"), ["--data", text], ["--sparsity", "50%"]
    cases = {
        "modelx' does not exist": ["search", f"{model}x", *out, *data],
        "no model has this name' does not exist": ["perplexity", "no model has this name", *data],
        "is a file; pass the folder": ["prune", text, *half, *out, *data],
        "has no config.json": ["project", str(tmp_path / "empty"), run, *half, *out],
        "text.txtx' is not a file": ["search", model, *out, "--data", f"{text}x"],
        "no.jsonl' is not a file": ["compare-sparsegpt", model, *half, *out, "--data", "no.jsonl"],
        "eval.txt' is not a file": [
            "compare",
            model,
            "--methods",
            "wanda",
            *half,
            *out,
            *data,
            "--eval-data",
            "eval.txt",
        ],
        "runx' does not exist": ["project", model, f"{run}x", *half, *out],
        "has no run.json": ["allocate", model, str(tmp_path / "empty"), "--scheme", "owl", *half, *out],
        "'half' is neither a ratio": ["project", model, run, "--sparsity", "half", *out],
        "'5O%' is neither a ratio": ["compare", model, "--methods", "wanda", "--sparsity", "5O%", *out],
        "'2:4x' is neither a ratio": ["plan", "smollm2-135m", "--sparsity", "2:4x"],
        "not '80 apples'": ["plan", "smollm2-135m", "--device-memory", "80 apples"],
        "--ranks 6 cannot be": ["plan", "smollm2-135m", "--ranks", "6", "--nodes", "4"],
        "'none.json' cannot be read": ["prune", model, "--sparsity", "@none.json", *out, *data],
        "not 'frozn'": ["search", model, *out, "--mode", "frozn"],
        "task.jsonl' is not a file": ["eval", model, *out, "--data", "task.jsonl"],
        "nothing' does not exist; pass a folder or a file": ["check-zeros", model, "nothing"],
        "no format is called 'ggfu'": ["export", model, "--to", "ggfu", *out],
        "--type of gguf must be one of": ["export", model, "--to", "gguf", "--type", "Q4_K", *out],
        "modelz' is not a folder": ["export", f"{model}z", *out],
        "modely' is not a folder": ["unpack", f"{model}y", *out],
        "has neither run.json nor unipruning.json": ["report", model, "--out", str(tmp_path / "r.html")],
        "'wonda'": ["compare", model, "--methods", "wonda", *half, *out],
        "not 'drfit'": ["demo", "--mode", "drfit"],
        "did you mean 'mirror_step'?": ["bench", "mirror_stp"],
        "not 'eagerr'": ["bench", "--baseline", "eagerr"],
        "not 'fp8'": ["bench", "--dtype", "fp8"],
        "no backend is called 'cup'": ["search", model, *out, *data, "--backend", "cup"],
        "not 'fp16'": ["perplexity", model, *data, "--dtype", "fp16"],
        "tokenizer './none' does not exist": ["perplexity", model, *data, "--tokenizer", "./none"],
        "'./llama' has no usable config": ["plan", "./llama"],
        "'./lllama' has no usable config": ["targets", "./lllama"],
        "'re:(' is not a regular expression": ["targets", "smollm2-135m", "--exclude", "re:("],
        "--include must be a pattern": ["search", model, *out, *data, "--include", ""],
        "'./lama' has no usable config": ["bench", "--model", "./lama"],
    }
    found, said = imported_by(list(cases.values()), HEAVY)
    assert found == [[2, []]] * len(cases)
    sentences = said.splitlines()
    assert len(sentences) == len(cases)
    for message, sentence in zip(cases, sentences, strict=True):
        assert message in sentence


def test_the_list_of_formats_imports_nothing_heavy():
    found, _ = imported_by([["export", "--list"]], [*HEAVY, "gguf", "compressed_tensors", "sentencepiece"])
    assert found == [[0, []]]


@pytest.fixture
def search_of_lines(home, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": (home / "text.txt").read_text()}) + "\n")
    words = ["--data", str(text), "--samples", "4", "--seq-len", "16", "--backend", "cpu", "--overwrite"]
    return ["search", str(home / "model"), "--out", str(tmp_path / "run"), *words]


def test_a_search_of_json_lines_imports_no_library_for_tables(search_of_lines):
    tables = ["datasets", "pandas", "pyarrow", "sklearn", "matplotlib"]
    found, _ = imported_by([search_of_lines], tables)
    assert found == [[0, []]]


def test_help_and_refusals_look_up_no_package():
    unneeded = [*HEAVY, "importlib.metadata", "pluggy", "yaml", "jinja2"]
    program = "import sys; before = set(sys.modules); from unipruning_core.cli.main import build_parser; "
    program += f"build_parser().format_help(); print(sorted(({set(unneeded)!r} & set(sys.modules)) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_costs_a_small_part_of_importing_torch(tmp_path):
    words = ("-m", "unipruning_core.cli", "--help")
    # compiled once, as torch is where it is installed
    around = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    around["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    cpu_seconds(*words, around=around)
    assert any(cpu_seconds(*words, around=around) <= 0.1 * cpu_seconds("-c", "import torch") for _ in range(TRIES))


def test_a_misspelt_model_costs_a_small_part_of_importing_torch():
    words = ("-m", "unipruning_core.cli", "search", "./nowhere", "--out", "out", "--data", __file__)
    assert any(cpu_seconds(*words) <= 0.15 * cpu_seconds("-c", "import torch") for _ in range(TRIES))


def test_a_small_search_costs_little_more_than_its_imports(search_of_lines):
    words = ("-m", "unipruning_core.cli", *search_of_lines)
    # of which a third is the model's own code, which the classes import only when they are used
    assert any(cpu_seconds(*words) <= 1.6 * cpu_seconds("-c", AUTO_CLASSES) for _ in range(TRIES))


def test_the_collector_rests_while_much_is_imported_and_is_then_as_it_was(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 0)
    with collector_at_rest():
        assert not gc.isenabled()
        monkeypatch.setitem(sys.modules, "another", None)
    assert gc.isenabled()
    assert not frozen, "a Python user's own garbage must stay collectable"
    with collector_at_rest(ours=True):
        pass
    assert not frozen, "nothing was imported"
    with collector_at_rest(ours=True):
        monkeypatch.setitem(sys.modules, "one more", None)
    assert gc.isenabled()
    assert frozen == [True]
    with suppress(ImportError), collector_at_rest():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_that_wait_give_way_unless_the_user_wants_otherwise(given):
    program = "import os; from unipruning_core.cli.main import main; main(['backends']); print(os.environ['{}'])"
    around = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    around |= {"OMP_WAIT_POLICY": given} if given else {}
    command = [sys.executable, "-c", program.format("OMP_WAIT_POLICY")]
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (given or "PASSIVE")

"""The command line: what a user types, what comes back, and that wrong input costs one sentence and nothing else."""

import json
import shutil

import pytest
import torch
from _checkpoints import save_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from unipruning_core.cli.main import main


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_prune_writes_a_checkpoint_and_keeps_the_search(home, search_words, tmp_path, capsys):
    out = tmp_path / "pruned"
    assert main(["prune", *search_words, "--sparsity", "50%", "--sparsity", "2:4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "unipruning project" in printed
    assert "50%/global" in printed
    for slug in ("50", "2-4"):
        assert json.loads((out / slug / "unipruning.json").read_text())["overall"]["sparsity"] == 0.5
        AutoModelForCausalLM.from_pretrained(out / slug)
    pruned = load_file(out / "2-4" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert (pruned.unflatten(1, (-1, 4)).count_nonzero(dim=-1) == 2).all()
    assert (
        main(["project", str(home / "model"), f"{out}-run", "--sparsity", "70%/global", "--out", str(tmp_path / "g")])
        == 0
    )
    report = json.loads((tmp_path / "g" / "unipruning.json").read_text())
    assert report["overall"]["sparsity"] == pytest.approx(0.7, abs=1e-4)


def test_prune_given_again_after_its_search_was_done_uses_it(search_words, tmp_path, capsys):
    words = ["prune", *search_words, "--sparsity", "50%", "--out", str(tmp_path / "a"), "--run", str(tmp_path / "run")]
    assert main(words) == 0
    first = files(tmp_path / "a")
    words[words.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    assert main(words) == 0
    assert "reusing the finished search" in capsys.readouterr().err
    assert files(tmp_path / "b") == first
    assert main([*words[:-4], "--out", str(tmp_path / "c"), "--run", str(tmp_path / "run"), "--seed", "1"]) == 2
    assert "differs in its settings" in capsys.readouterr().err


def test_perplexity_prints_json_that_names_its_text(home, capsys):
    words = ["perplexity", str(home / "model"), "--data", str(home / "text.txt"), "--seq-len", "32", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["windows"] == 600 // 32
    assert 10 < found["perplexity"] < 100  # a random model over 48 words
    assert len(found["data_sha256"]) == 64


def damage(folder, kind):
    weights = folder / "model.safetensors"
    if kind == "no weights":
        weights.unlink()
    elif kind == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "header":
        weights.write_bytes(b"\xff" * 200)
    else:
        tensors = load_file(weights)
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float(kind)
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no weights", "has neither model.safetensors nor"),
        ("pickled", "has only pickled weights"),
        ("truncated", "are damaged"),
        ("header", "are damaged"),
        ("nan", "1 values of 960 that are NaN or infinite"),
        ("inf", "1 values of 960 that are NaN or infinite"),
    ],
)
def test_a_model_that_cannot_be_pruned_is_refused_before_it_is_loaded(
    home, search_words, tmp_path, capsys, monkeypatch, kind, says
):
    import shutil

    shutil.copytree(home / "model", tmp_path / "model")
    damage(tmp_path / "model", kind)
    monkeypatch.setattr("unipruning_core.jobs.opened.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    words = ["prune", str(tmp_path / "model"), *search_words[1:], "--sparsity", "50%", "--out", str(tmp_path / "out")]
    refused(words, says, tmp_path, capsys)


def refused(words, says, folder, capsys):
    before = files(folder)
    assert main(words) == 2
    printed = capsys.readouterr()
    message = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert says in message[0]
    assert printed.out == ""
    assert files(folder) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sparsity", "0.6"], "sparsity '0.6' is neither a ratio below 100%"),
        (["--sparsity", "100%"], "neither a ratio below 100%"),
        (["--sparsity", "4:2"], "neither a ratio below 100%"),
        (["--sparsity", "7:16"], "needs a multiple of 16 inputs, but 'model.layers.0.mlp.down_proj.weight' has 40"),
        (["--sparsity", "@nowhere.json"], "budget 'nowhere.json' cannot be read"),
        (["--sparsity", "50%", "--sparsity", "50.0%"], "was given twice"),
        (["--sparsity", "50%", "--backend", "abacus"], "no backend is called 'abacus'; installed: cpu, cuda, npu"),
        (["--sparsity", "50%", "--mode", "fast"], "--mode must be one of feedback, drift, frozen, coupled, not 'fast'"),
        (["--sparsity", "50%", "--metric", "luck"], "--metric must be one of magnitude, wanda, ria, stochria"),
        (["--sparsity", "50%", "--dtype", "int8"], "--dtype must be one of auto"),
        (["--sparsity", "50%", "--samples", "4000"], "need 64000 tokens, but"),
        (["--sparsity", "50%", "--samples", "0"], "calibration needs --samples >= 1"),
        (["--sparsity", "50%", "--seq-len", "4096"], "--seq-len 4096 is more than the model's 2048 positions"),
        (["--sparsity", "50%", "--second-moment-rate", "0"], "--second-moment-rate must lie in [1e-9, 1], not 0"),
        (["--sparsity", "50%", "--prox-strength", "1"], "--prox-strength is for --mode drift"),
        (
            ["--sparsity", "50%", "--mode", "drift", "--prox-strength", "1", "--prox-pattern", "3:16"],
            "needs a multiple of 16 inputs",
        ),
        (["--sparsity", "50%", "--mode", "feedback", "--pattern", "3:16"], "needs a multiple of 16 inputs"),
        (
            ["--sparsity", "50%", "--mode", "feedback", "--pattern", "50%"],
            "--pattern must be N:M, such as 2:4, not '50%'",
        ),
        (
            ["--sparsity", "50%", "--mode", "drift", "--pattern", "2:4"],
            "--pattern is for --mode feedback; settings",
        ),
        (["--sparsity", "50%", "--data", "nowhere.txt"], "nowhere.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_cost_one_sentence(search_words, tmp_path, capsys, words, says):
    refused(["prune", *search_words, *words, "--out", str(tmp_path / "out")], says, tmp_path, capsys)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"word1 word2", "need 64 tokens"), (bytes(range(256)), "not text")],
    ids=["empty", "short", "binary"],
)
def test_a_calibration_file_that_is_no_text_costs_one_sentence(search_words, tmp_path, capsys, content, says):
    (tmp_path / "data.txt").write_bytes(content)
    data = ["--data", str(tmp_path / "data.txt"), *search_words[3:]]
    words = ["search", search_words[0], *data, "--out", str(tmp_path / "run")]
    refused(words, says, tmp_path, capsys)


@pytest.mark.parametrize("command", ["prune", "search"])
def test_an_output_that_holds_something_is_refused_at_once(search_words, tmp_path, capsys, monkeypatch, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    monkeypatch.setattr("unipruning_core.data.text.load_text", lambda *_, **__: pytest.fail("work had begun"))
    words = [
        command,
        *search_words,
        "--out",
        str(tmp_path / "out"),
        *(["--sparsity", "50%"] if command == "prune" else []),
    ]
    refused(words, "is not empty", tmp_path, capsys)
    refused([*words, "--overwrite"], "out", tmp_path, capsys)


@pytest.fixture(scope="module")
def run_folder(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    words = [str(home / "model"), "--data", str(home / "text.txt"), "--samples", "2", "--seq-len", "16"]
    assert main(["search", *words, "--mode", "frozen", "--out", str(folder)]) == 0
    return folder


def test_a_run_of_another_model_is_refused(run_folder, tmp_path, capsys):
    save_llama(tmp_path / "other", dtype=torch.float32)
    words = ["project", str(tmp_path / "other"), str(run_folder), "--sparsity", "50%", "--out", str(tmp_path / "out")]
    refused(words, "made from another model", tmp_path, capsys)


def test_a_run_with_a_flipped_byte_is_refused(home, run_folder, tmp_path, capsys):
    import shutil

    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "dual.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-5] ^= 64
    path.write_bytes(changed)
    words = ["project", str(home / "model"), str(tmp_path / "run"), "--sparsity", "50%", "--out", str(tmp_path / "out")]
    refused(words, "is damaged: its checksum is", tmp_path, capsys)


def test_no_space_left_is_known_before_the_search(search_words, tmp_path, capsys, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    words = ["prune", *search_words, "--sparsity", "50%", "--out", str(tmp_path / "out")]
    refused(words, "needs", tmp_path, capsys)


def test_code_that_comes_with_a_model_is_not_run_unless_asked(home, search_words, tmp_path, capsys):
    import shutil

    shutil.copytree(home / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "code.Homemade", "AutoModelForCausalLM": "code.Homemade"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "code.py").write_text("raise SystemExit('the code was run')\n")
    words = ["search", str(tmp_path / "model"), *search_words[1:], "--out", str(tmp_path / "run")]
    refused(words, "pass --trust-remote-code", tmp_path, capsys)


def test_a_search_that_cannot_fit_says_the_numbers(search_words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unipruning_core.search.memory.free_bytes", lambda *_: 1000)
    words = ["search", *search_words, "--out", str(tmp_path / "run"), "--offload", "none"]
    refused(words, "GiB is free on the cpu device", tmp_path, capsys)


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_a_search_that_does_not_fit_the_memory_lies_in_files(search_words, tmp_path, capsys, monkeypatch, mode):
    words = ["search", *search_words, "--mode", mode]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr("unipruning_core.search.memory.free_bytes", lambda *_: 1000)
    assert main([*words, "--out", str(tmp_path / "run"), "--max-memory", "1KB"]) == 0
    assert "weights and state lie in files in the run folder" in capsys.readouterr().err
    for name in ("dual.safetensors", "run.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-memory", "22 parrots"], "--max-memory must be a size such as 22GiB or 500MB, not '22 parrots'"),
        (["--offload", "cpu"], "--offload cpu moves nothing where the backend computes in the host's memory; use disk"),
        (["--offload", "disk", "--mode", "drift"], "--offload is for the modes feedback, frozen; omit it with --mode"),
        (["--copies", "2"], "--copies must divide the number of ranks, 1, not be 2"),
        (["--skip-nonfinite", "--batch-size", "2"], "leaves out single samples, but --batch-size asks for steps of"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(search_words, tmp_path, capsys, more, said):
    refused(["search", *search_words, "--out", str(tmp_path / "run"), *more], said, tmp_path, capsys)


def test_several_models_are_measured_in_one_command_a_line_each(home, tmp_path, capsys):
    model, other = str(home / "model"), str(tmp_path / "other")
    loaded = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.mul_(1.5)
    loaded.save_pretrained(other)
    AutoTokenizer.from_pretrained(model).save_pretrained(other)
    words = ["--data", str(home / "text.txt"), "--seq-len", "32"]
    alone = []
    for name in (model, other):
        assert main(["perplexity", name, *words]) == 0
        alone.append(f"{name}: {capsys.readouterr().out}")
    assert alone[0].split()[2] != alone[1].split()[2]
    assert main(["perplexity", model, other, *words]) == 0
    assert capsys.readouterr().out == "".join(alone)
    assert main(["perplexity", model, other, *words, "--json"]) == 0
    found = [json.loads(line)["perplexity"] for line in capsys.readouterr().out.splitlines()]
    assert [f"{value:.3f}" for value in found] == [line.split()[2] for line in alone]
    assert main(["perplexity", model, f"{other}x", *words]) == 2
    printed = capsys.readouterr()
    assert not printed.out, "a misspelt model is refused before any is measured"
    assert f"{other}x' does not exist" in printed.err


def test_an_infinite_perplexity_is_null_in_json(home, tmp_path, capsys):
    folder = shutil.copytree(home / "model", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"].mul_(1e6)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    words = ["perplexity", str(folder), "--data", str(home / "text.txt"), "--seq-len", "32", "--json"]
    assert main(words) == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["perplexity"] is None

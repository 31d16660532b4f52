"""What the command line says of itself, of the machine and of how it loads a model."""

import json
import subprocess
import sys

import pytest
import torch

from unipruning_core.cli.main import build_parser, main


def test_backends_lists_what_is_optimised_and_why_not(capsys):
    assert main(["backends", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in listed["backends"]}
    assert {"cpu", "cuda", "npu"} <= set(by_name)
    assert by_name["cpu"]["available"]
    assert "mirror_step" in by_name["cpu"]["optimised"]
    assert all(row["available"] or row["detail"] for row in listed["backends"])
    assert main(["backends"]) == 0
    assert "optimised:" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["backends"], ["search", "--help"]], ids=" ".join)
def test_light_commands_import_no_torch(words):
    code = f"""
import sys
import unipruning_core.cli.main
try:
    unipruning_core.cli.main.main({words!r})
except SystemExit:
    pass
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_every_command_teaches_by_example():
    parser = build_parser()
    commands = parser._subparsers._group_actions[0].choices
    light = {"demo", "backends", "conform"}
    taught = {
        "prune",
        "search",
        "project",
        "perplexity",
        "eval",
        "card",
        "push",
        "compare",
        "compare-sparsegpt",
        "allocate",
        "dequantize",
        "check-zeros",
        "size",
        "export",
        "unpack",
        "report",
        "plan",
        "targets",
        "bench",
        "doctor",
    }
    assert set(commands) == light | taught
    for name in taught:
        assert f"unipruning {name} " in commands[name].format_help()


def test_a_device_extension_that_breaks_torch_is_explained(monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("Failed to load the backend extension: torch_npu.") from ImportError("libhccl.so: not found")

    monkeypatch.setattr("unipruning_core.cli.machine._backends", broken)
    assert main(["backends"]) == 2
    error = capsys.readouterr().err
    assert "libhccl.so" in error
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in error


@pytest.mark.parametrize(("fast", "loaded"), [(True, "bfloat16"), (False, "float32")])
def test_a_model_is_loaded_in_what_the_device_computes_in(tmp_path, search_words, capsys, monkeypatch, fast, loaded):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    for asked in ("auto", "bfloat16"):
        words = ["search", *search_words, "--mode", "frozen", "--dtype", asked, "--out", str(tmp_path / asked)]
        assert main(words) == 0
        used = json.loads((tmp_path / asked / "run.json").read_text())["data"]["dtype"]
        assert used == (loaded if asked == "auto" else "bfloat16")
        noted = "loading in float32, since this device is slow in bfloat16" in capsys.readouterr().err
        assert noted == (asked == "auto" and not fast)


@pytest.mark.parametrize(("fast", "loaded"), [(True, "bfloat16"), (False, "float32")])
def test_a_perplexity_says_what_its_model_was_loaded_in(home, capsys, monkeypatch, fast, loaded):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    words = ["perplexity", str(home / "model"), "--data", str(home / "text.txt"), "--seq-len", "32", "--windows", "2"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == loaded
    assert main([*words, "--dtype", "float16"]) == 0
    assert "; float16)" in capsys.readouterr().out

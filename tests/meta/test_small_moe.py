"""The small mixture of experts: its training is repeatable, and its folder is one that the program reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from unipruning_core.jobs.results import perplexity
from unipruning_core.storage.files import sha256

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "small_moe.py"
TINY = "--vocabulary 300 --hidden 32 --heads 1 --layers 2 --experts 4 --expert-hidden 16 --seq-len 32 --batch 2"
DOCUMENTS = [f"Document {n} counts to {n * n}, and then from {n * 7} down again, step by step." for n in range(90)]
KEPT_BACK = 10


def train(folder: Path, name: str, *words: str) -> None:
    spec = importlib.util.spec_from_file_location("small_moe", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    files = {"text": "text.jsonl", "held-out": "held-out.txt", "out": name}
    arguments = [f"--{option}={folder / file}" for option, file in files.items()]
    script.main([*arguments, *TINY.split(), f"--keep-back={KEPT_BACK}", "--epochs=3", "--windows=8", *words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and a model trained on them."""
    folder = tmp_path_factory.mktemp("small-moe")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    (folder / "held-out.txt").write_text("\n".join(document.replace("step", "bit") for document in DOCUMENTS[:40]))
    train(folder, "model")
    return folder


@pytest.fixture
def figures(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model" / "training.json").read_text())
    return content


def test_the_same_command_trains_the_same_weights(folder: Path) -> None:
    train(folder, "again")
    train(folder, "other", "--seed=1")
    weights = [sha256(folder / name / "model.safetensors") for name in ("model", "again", "other")]
    assert weights[0] == weights[1] != weights[2]


def test_the_perplexity_is_the_one_that_the_program_measures(folder: Path, figures: dict[str, Any]) -> None:
    measured = perplexity(
        folder / "model", data=folder / "held-out.txt", seq_len=32, windows=8, backend="cpu", progress=False
    )
    assert figures["held_out"]["perplexity"] == pytest.approx(measured.perplexity, rel=1e-4)


def test_the_model_learns_and_its_experts_count_every_token(figures: dict[str, Any]) -> None:
    assert figures["curve"][-1]["loss"] < figures["curve"][0]["loss"] - 0.5
    for usage in figures["held_out"]["tokens_of_experts"]:
        assert len(usage) == 4
        assert sum(usage) == 2 * figures["held_out"]["windows"] * 32
    assert figures["parameters"]["experts"] == 2 * 4 * 3 * 32 * 16


def test_documents_that_are_kept_back_are_not_for_calibration(folder: Path) -> None:
    rows = (folder / "model" / "calibration.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in rows] == DOCUMENTS[:-KEPT_BACK]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-back", "90"], "--keep-back must be less than the 90 documents"),
        (["--seq-len", "4096"], "--text must have two windows of 4096 tokens"),
        (["--held-out", "missing.txt"], "'missing.txt' is not a file"),
        (["--out", "."], "--out must not exist"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train(folder, "refused", *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "refused").exists()

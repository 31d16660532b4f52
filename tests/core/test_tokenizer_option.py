"""A tokenizer from elsewhere: for a model that has none, in every command that reads a text, and in what it records."""

import json
import shutil

import pytest
from _checkpoints import save_llama, save_text, save_tokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.jobs.opened import OnDisk
from unipruning_core.models.loading import ModelChoice
from unipruning_core.progress import Progress

MISSING = "has no tokenizer files, such as tokenizer.json; "


@pytest.fixture
def bare(tmp_path):
    """A model without a tokenizer, a folder with one, and a text."""
    folder = save_llama(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    save_tokenizer(tmp_path / "words")
    save_text(tmp_path / "text.txt")
    return tmp_path


def words_of(command, place):
    out = ["--out", str(place / "out")]
    data = ["--data", str(place / "text.txt"), "--seq-len", "16"]
    samples = ["--samples", "2"]
    return {
        "search": ["search", str(place / "model"), *data, *samples, *out],
        "prune": ["prune", str(place / "model"), *data, *samples, *out, "--sparsity", "50%"],
        "perplexity": ["perplexity", str(place / "model"), *data, "--windows", "2", "--json"],
        "compare-sparsegpt": ["compare-sparsegpt", str(place / "model"), *data, *samples, *out, "--sparsity", "50%"],
        "compare": [
            *("compare", str(place / "model"), *data, *samples, *out, "--sparsity", "50%", "--methods", "wanda"),
            *("--eval-data", str(place / "text.txt"), "--windows", "2", "--eval-seq-len", "16"),
        ],
    }[command]


COMMANDS = ("search", "prune", "perplexity", "compare-sparsegpt", "compare")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("commands")
def test_a_tokenizer_from_elsewhere_serves_every_command_that_reads_a_text(command, bare, refused, capsys):
    words = words_of(command, bare)
    error = refused(*words)
    assert f"model {str(bare / 'model')!r} {MISSING}" in error
    assert error.endswith("or name a folder or a hub id that has it with --tokenizer")
    assert main([*words, "--tokenizer", str(bare / "words")]) == 0
    recorded = {
        "search": "out/run.json",
        "prune": "out/unipruning.json",
        "compare-sparsegpt": "out/unipruning.json",
        "compare": "out/results.json",
    }
    found = capsys.readouterr().out if command == "perplexity" else (bare / recorded[command]).read_text()
    assert f'"tokenizer": {json.dumps(str(bare / "words"))}' in found


def test_the_scores_are_those_of_a_model_that_has_the_tokenizer(bare):
    shutil.copytree(bare / "model", bare / "whole")
    shutil.copytree(bare / "words", bare / "whole", dirs_exist_ok=True)
    words = {"data": bare / "text.txt", "samples": 2, "seq_len": 16, "progress": False}
    one = unipruning.search(bare / "model", bare / "words", out=bare / "one", **words)
    other = unipruning.search(bare / "whole", out=bare / "other", **words)
    assert all((one.score(target.name) == other.score(target.name)).all() for target in other.targets)
    assert "tokenizer" not in other.description["data"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such/place", "tokenizer 'no/such/place' does not exist; pass a folder, or a hub id"),
        ("text.txt", "is a file; pass the folder that holds it"),
        ("empty", f"empty' {MISSING}pass a folder or a hub id with a tokenizer"),
        ("broken", "broken' has no usable tokenizer: "),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_refused_by_name(name, says, bare, refused):
    for folder in ("empty", "broken"):
        (bare / folder).mkdir()
    (bare / "broken" / "tokenizer.json").write_text("{}")
    tokenizer = name if "/" in name else bare / name
    assert says in refused(*words_of("search", bare), "--tokenizer", tokenizer)


def test_the_tokenizers_folder_is_no_output(bare, refused):
    words = words_of("prune", bare)
    words[words.index("--out") + 1] = str(bare / "words" / "out")
    assert f"and tokenizer {str(bare / 'words')!r} overlap" in refused(*words, "--tokenizer", bare / "words")


def test_a_tokenizer_that_was_let_go_of_is_read_again(home):
    model = OnDisk(ModelChoice(str(home / "model")), "cpu", Progress())
    data = DataChoice(TextChoice(str(home / "text.txt")), 2, 16)
    one, other = model.calibrate(data, 0), model.calibrate(data, 0)
    assert one.record == other.record
    assert model.tokenizer is model.tokenizer is not None

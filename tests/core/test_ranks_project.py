"""Projection and perplexity over ranks: the bytes and the figure of one process, and commands that run in one only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _checkpoints import content, save_home, save_llama, targets_of
from _launched import launch

from unipruning_core.cli.main import main
from unipruning_core.distributed.world import World
from unipruning_core.projection.parts import Part
from unipruning_core.search.base import Outcome
from unipruning_core.search.modes.frozen import FrozenSettings
from unipruning_core.search.run_folder import DUAL_FILE, write_run
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.tensorfile import digest_of

FORMS = ("60%/matrix", "55%/row", "60%/global", "30%/model", "2:4", "2:4+dense@45%", "@budget.json")
RULES = {"overall": "60%", "default": "60%", "sparsity": {"model.layers.0.*": "2:4", "*.down_proj.weight": "50%/row"}}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its run, whose scores take few values, so that there are ties on every rank."""
    folder = save_home(tmp_path_factory.mktemp("searched"))
    save_llama(folder / "shards", shards=True)
    (folder / "budget.json").write_text(json.dumps(RULES))
    checkpoint = Checkpoint.open(folder / "shards")
    targets = targets_of(checkpoint)
    generator = torch.Generator().manual_seed(3)
    scores = ((torch.randn(target.shape, generator=generator) * 3).round() for target in targets)
    outcomes = (Outcome(target, score, torch.tensor(0.5), 7) for target, score in zip(targets, scores, strict=True))
    about = {"settings": FrozenSettings().to_json(), "scope": "matrix", "versions": {}, "backend": "cpu"}
    about |= {"model": {"fingerprint": checkpoint.fingerprint()}, "data": {"tokens": 3}}
    (folder / "run").mkdir()
    digests = {target.name: digest_of(checkpoint.read(target.name)) for target in targets}
    write_run(folder / "run", targets, outcomes, about, digests)
    return folder


def words_of(searched: Path, out: Path, *forms: str) -> list[object]:
    given = [form.replace("@budget", f"@{searched}/budget") for form in forms]
    asked = [word for form in given for word in ("--sparsity", form)]
    return ["project", searched / "shards", searched / "run", *asked, "--out", out, "--backend", "cpu"]


@pytest.fixture(scope="module")
def alone(searched: Path) -> Path:
    """What one process writes."""
    assert main([str(word) for word in words_of(searched, searched / "alone", *FORMS)]) == 0
    return searched / "alone"


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_projection_is_that_of_one_process_to_the_byte(searched, alone, tmp_path, ranks):
    found = launch(words_of(searched, tmp_path / "out", *FORMS), ranks)
    assert [(rank.code, rank.errors) for rank in found] == [(0, [])] * ranks, found
    assert [bool(rank.out) for rank in found] == [True] + [False] * (ranks - 1)
    assert content(tmp_path / "out") == content(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_every_row_keeps_as_many_weights_over_ranks(searched, tmp_path):
    forms = [form for form in FORMS if form[-4:] != "/row" and "2:4" not in form]
    words = [*words_of(searched, tmp_path / "alone", *forms), "--keep-per-row", "3"]
    assert main([str(word) for word in words]) == 0
    words[words.index(tmp_path / "alone")] = tmp_path / "out"
    assert [(rank.code, rank.errors) for rank in launch(words, 2)] == [(0, [])] * 2
    assert content(tmp_path / "out") == content(tmp_path / "alone")
    others = {1: [*words[:-1], "2", "--overwrite"]}
    found = launch([*words, "--overwrite"], 2, others)
    assert found[0].errors[0].startswith("error: rank 1 has another --keep-per-row than rank 0 (2, not 3)")


def test_a_run_that_is_damaged_is_refused_by_all_and_nothing_appears(searched, tmp_path):
    (tmp_path / "run").mkdir()
    for path in (searched / "run").iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((tmp_path / "run" / DUAL_FILE).read_bytes())
    damaged[-4] ^= 1  # of the last score, on the last rank; the first one compares the checksum
    (tmp_path / "run" / DUAL_FILE).write_bytes(damaged)
    words = words_of(searched, tmp_path / "out", "60%")
    words[2] = tmp_path / "run"
    found = launch(words, 2)
    assert [rank.code for rank in found] == [2, 2]
    assert "its checksum is" in found[0].errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_rank_that_prunes_to_another_sparsity_is_named(searched, tmp_path):
    found = launch(words_of(searched, tmp_path / "out", "60%"), 2, {1: words_of(searched, tmp_path / "out", "50%")})
    assert [rank.code for rank in found] == [2, 2]
    assert found[0].errors[0].startswith("error: rank 1 has another sparsity than rank 0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [[1], [5, 5, 5, 5], [100, 1, 1, 1], [1, 1, 1, 100], [3, 1, 4, 1, 5, 9, 2, 6]])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_every_matrix_belongs_to_one_rank_and_parts_are_even(sizes, size):
    targets = [Target(str(number), (1, columns)) for number, columns in enumerate(sizes)]
    parts = [Part.of(targets, World(rank, size)) for rank in range(size)]
    assert [position for part in parts for position in part.positions] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in part.positions) <= sum(sizes) / size + max(sizes) for part in parts)
    files = [Path(str(number)) for number in range(5)]
    assert sorted(path for part in parts for path in part.files(files)) == files


def test_a_perplexity_over_ranks_is_the_same_number(searched, capsys):
    words = ["perplexity", searched / "model", "--data", searched / "text.txt", "--seq-len", "64", "--backend", "cpu"]
    assert main([*map(str, words), "--json"]) == 0
    expected = capsys.readouterr().out
    found = launch([*words, "--json"], 2)
    assert [(rank.code, rank.errors) for rank in found] == [(0, [])] * 2, found
    assert found[0].out == expected
    assert len(json.loads(expected)["per_window_nll"]) == 9  # an odd number
    assert found[1].out == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare", "compare starts ranks itself: give it --ranks, and start it without torchrun"),
        *((name, f"{name} runs in one process; start it without torchrun") for name in ("plan", "demo", "targets")),
    ],
)
def test_other_commands_run_in_one_process(searched, monkeypatch, capsys, command, said):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    model = [] if command == "demo" else [str(searched / "model")]
    more = ["--sparsity", "60%", "--out", "out"] if command == "compare" else []
    assert main([command, *model, *more]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"

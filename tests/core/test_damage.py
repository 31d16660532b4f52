"""Every file that is read back, damaged: what comes out is what was written, or one sentence."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from _checkpoints import FakeScores, parsed, save_llama, targets_of

from unipruning_core.compare.records import read_evaluation, read_search, write_record
from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.search.base import Outcome
from unipruning_core.search.modes.frozen import FrozenSettings
from unipruning_core.search.resume import Resume
from unipruning_core.search.run_folder import Run, write_run
from unipruning_core.sparsity.budget import Budget
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.config import check_config, read_config
from unipruning_core.storage.documents import sealed
from unipruning_core.tools.bench.report import compare, read_earlier, to_json
from unipruning_core.tools.bench.run import BenchLine
from unipruning_cpu.backend import CpuBackend

VALUES = (None, "", "x", True, -1, 0, 1.5, 10**30, [], {}, [[3]], {"a": [None]}, "REMOVED")
TEXTS = ("1e400", "NaN", "9" * 5000, '"\\ud800"', "[" * 3000 + "]" * 3000, '{"a": 1, "a": 2}')
FLIPS = 40
LINE = BenchLine("cpu", "nm_mask", "4x8", "bfloat16", 1, 32, 5.0, median=2e-3, p20=1e-3, p80=3e-3)
FACTS = {"windows": 2}
IDENTITY = {"settings": {"mode": "drift"}}
STATE = {"a.dual": torch.arange(24.0).view(3, 8), "steps": torch.tensor([3])}


@dataclass(frozen=True)
class Kind:
    """A file that is read back, and all that is read from it."""

    path: str  # in the folder of originals
    read: Callable[[Path], object]  # from the folder, as something to compare
    vouched: bool = True  # whether a checksum vouches for all of it


def read_model(folder):
    checkpoint = Checkpoint.open(folder / "model")
    check_config(folder / "model/config.json", read_config(folder / "model/config.json"), checkpoint.tensors.values())
    checkpoint.files_to_copy()
    return [bytes(checkpoint.read(name).view(torch.uint8).numpy()) for name in checkpoint.tensors]


def read_run(folder):
    run = Run.open(folder / "run")
    json.dumps([run.provenance, run.scope, run.digests, run.fingerprint], allow_nan=False)
    norms = {name: norm.tolist() for name, norm in run.input_norms.items()}
    return [run.score(target.name).tolist() for target in run.targets], norms


def read_state(folder):
    resume, tensors = Resume(folder / "state", IDENTITY), {k: torch.zeros_like(v) for k, v in STATE.items()}
    found = resume.found(5)
    resume.restore(tensors)
    return found, [tensor.tolist() for tensor in tensors.values()]


def read_pruned(folder):
    masks = read_masks(folder / "pruned", Progress())
    return [masks.read(target.name).tolist() for target in masks.targets]


def read_budget(folder):
    budget = Budget.read(folder / "budget.json")
    return str(budget.cuts(targets_of(Checkpoint.open(folder / "model"))))


KINDS = [
    Kind("model/config.json", read_model, vouched=False),
    Kind("model/model.safetensors.index.json", read_model, vouched=False),
    Kind("model/model-00001-of-00005.safetensors", read_model, vouched=False),
    Kind("run/run.json", read_run),
    Kind("run/dual.safetensors", read_run),
    Kind("run/inputs.safetensors", read_run),
    Kind("state/resume-00000003/state.json", read_state),
    Kind("state/resume-00000003/state.safetensors", read_state),
    Kind("pruned/unipruning.json", read_pruned),
    Kind("pruned/unipruning.masks", read_pruned),
    Kind("evaluation.json", lambda folder: read_evaluation(folder / "evaluation.json", FACTS, pruned=True)),
    Kind("search.json", lambda folder: read_search(folder / "search.json", {"seed": 0})),
    Kind("bench.json", lambda folder: compare([LINE], read_earlier(folder / "bench.json"))),
    Kind("budget.json", read_budget, vouched=False),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    checkpoint = Checkpoint.open(save_llama(folder / "model", shards=True))
    targets, scores = targets_of(checkpoint), FakeScores(checkpoint)
    (folder / "run").mkdir()
    about = {"settings": FrozenSettings().to_json(), "scope": "matrix", "model": {"fingerprint": "f"}, "losses": [0.5]}
    outcomes = (Outcome(t, scores.score(t.name), torch.tensor(0.1), 7, torch.ones(t.shape[1])) for t in targets)
    about |= {"data": {"tokens": 3}, "backend": "cpu", "versions": {}}
    write_run(folder / "run", targets, outcomes, about, {target.name: "0" * 64 for target in targets})
    (folder / "state").mkdir()
    Resume(folder / "state", IDENTITY).save(3, STATE, [0.5, 0.25, 0.125])
    project(checkpoint, scores, parsed("2:4"), folder / "pruned", CpuBackend())
    cost = {"seconds": 1.5, "peak_mib": None}
    measured = {"perplexity": 9.5, "per_window_nll": [2.25, 2.5]}
    evaluation = {"facts": FACTS, "evaluate": cost, "project": cost, "pruned": {"sparsity": 0.5}, "measured": measured}
    write_record(folder / "evaluation.json", evaluation)
    write_record(folder / "search.json", {"facts": {"seed": 0}, "method": "wanda", "tokens": 3, **cost})
    surroundings = {"date": "2026-01-01T00:00Z", "devices": {"cpu": "a CPU"}}
    bench = to_json([LINE], surroundings, model=None, baseline=None)
    (folder / "bench.json").write_text(json.dumps(bench))
    rules = {"*.0.*": "dense", "*.q_proj.*": "60%/row", "*.up_proj.*": {"keep": 9}, "*": "50%"}
    (folder / "budget.json").write_text(json.dumps({"overall": "30%", "default": "60%", "sparsity": rules}))
    return folder


@pytest.fixture(params=KINDS, ids=lambda kind: kind.path)
def kind(request):
    return request.param


@pytest.fixture
def damaged(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "damaged")


def outcome_of(kind, folder):
    """What is read, or None for one sentence; any other exception fails the test."""
    try:
        return kind.read(folder)
    except UnipruningError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert 20 < len(sentence) < 1000
    return None


def check(kind, folder, wanted, what):
    """Nothing but what was written may come out where a checksum vouches for it, else at least no other exception."""
    found = outcome_of(kind, folder)
    assert found is None or found == wanted or not kind.vouched, what


def test_damaged_bytes_are_noticed_or_do_no_harm(kind, damaged):
    path, wanted, chance = damaged / kind.path, kind.read(damaged), random.Random(kind.path)
    original = path.read_bytes()
    for number in range(FLIPS):
        content, at = bytearray(original), chance.randrange(len(original))
        match number % 5:
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at] = chance.randrange(256)
            case 2:
                content[at : at + 4] = chance.randbytes(4)
            case 3:
                del content[at:]
            case 4:
                content[at:at] = chance.randbytes(chance.randrange(1, 9))
        path.write_bytes(content)
        check(kind, damaged, wanted, (number, at))
    for content in (b"", b"\0" * len(original), original + b"x", original * 2, b"null", b"[]", b"{}", b"3", b'"x"'):
        path.write_bytes(content)
        check(kind, damaged, wanted, content[:9])


def places(content, path=()):
    """Every place in a JSON value; of long arrays and objects only some, since the others are alike."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content))
    for key, value in items if len(items) < 12 else [*items[:2], items[-1]]:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def edited(content, place, value):
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value == "REMOVED":
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.path.endswith(".json")], ids=lambda kind: kind.path)
def test_edited_documents_are_refused_or_do_no_harm(kind, damaged):
    path, wanted = damaged / kind.path, kind.read(damaged)
    original = json.loads(path.read_text())
    bare = {key: value for key, value in original.items() if key != "checksum"}
    for place in places(original):
        for value in VALUES:
            content = edited(original, place, value)
            path.write_text(json.dumps(content))
            check(kind, damaged, wanted, (place, value))
            if kind.vouched and place != ("checksum",):
                # by somebody who knows how to seal it: anything but an exception of another kind
                path.write_text(json.dumps(sealed(edited(bare, place, value))))
                outcome_of(kind, damaged)
        for text in TEXTS:
            path.write_text(json.dumps(edited(original, place, "HERE")).replace('"HERE"', text))
            check(kind, damaged, wanted, (place, text[:9]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.path.endswith("tensors")], ids=lambda kind: kind.path)
def test_an_edited_header_is_refused_or_does_no_harm(kind, damaged):
    path, wanted = damaged / kind.path, kind.read(damaged)
    original = path.read_bytes()
    length = int.from_bytes(original[:8], "little")
    header, data = json.loads(original[8 : 8 + length]), original[8 + length :]
    for place in places(header):
        for value in (*VALUES, 2**63, [0, 2**63], [0, 10**90], [False], [24], "F16", "U8"):
            text = json.dumps(edited(header, place, value)).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + data)
            check(kind, damaged, wanted, (place, value))
    path.unlink()
    check(kind, damaged, wanted, "missing")

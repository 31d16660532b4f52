"""Searches with the decoder blocks compiled: that they are, what comes of it, and where it cannot be."""

import json
import re
import shutil
from contextlib import contextmanager, nullcontext

import pytest
import torch
from _checkpoints import save_llama
from _mixtures import save_mixture
from _modes import SAMPLES, batches, start
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.resolve import parsed
from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import RunError
from unipruning_core.models import compiled
from unipruning_core.models.compiled import called_apart
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.experts import apart
from unipruning_core.progress import Progress, Task
from unipruning_core.search.choice import settings_of
from unipruning_core.search.compilation import compiled_blocks
from unipruning_core.search.feedback import FeedbackSearch
from unipruning_core.search.finished import COMPILED, NOT_COMPILED
from unipruning_core.search.loop import SearchTask, finished_search, search
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

SEARCHES = [
    ({"mode": "feedback"}, False),
    ({"mode": "feedback"}, True),
    ({"mode": "drift"}, False),
    ({"mode": "coupled"}, True),
    ({"mode": "frozen"}, False),
]
AGREEMENT = 0.99  # of two masks that differ by rounding, in float32
REASON = "No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"
NOTE = f"the decoder blocks run as they are, since they could not be compiled: {REASON}"


class Notes(Progress):
    """Keeps the notes, and raises after some samples if it is to."""

    def __init__(self, stop_after=None):
        self.notes, self.stop_after = [], stop_after

    def note(self, message):
        self.notes.append(message)

    @contextmanager
    def task(self, label, total, unit, done=0):
        yield Stopping(self.stop_after if unit == "samples" else None)


class Stopping(Task):
    def __init__(self, left):
        self.left = left

    def advance(self, amount=1, **shown):
        if self.left is not None:
            self.left -= amount
            if not self.left:
                raise KeyboardInterrupt


@pytest.fixture
def traced(monkeypatch):
    """Trace and differentiate as ever, and run the graphs by torch's own operators, since C++ takes long to compile.

    Where more had to be compiled than in the rehearsal, a sample fails.
    """
    from torch._dynamo import lookup_backend

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "inductor", lambda: lookup_backend("aot_eager"))
    monkeypatch.setattr(compiled, "SETTLED", "fail_on_recompile")


@pytest.fixture
def uncompilable(monkeypatch):
    """The compiler gives up at the third graph."""
    graphs = []

    def compiler(graph, inputs):
        graphs.append(graph)
        if len(graphs) % 3 == 0:
            raise RuntimeError(f"{REASON}\nmore")
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "inductor", lambda: compiler)


@pytest.fixture
def llama(tmp_path):
    return save_llama(tmp_path / "m", dtype=torch.float32)


def searched(folder, *, compiles, data=None, recomputes=False, **settings):
    """Return losses, scores and notes of a search."""
    found, progress, data = start(folder, **settings), Notes(), data or batches()
    found.recomputes = recomputes
    with apart(found.layers), compiled_blocks(found, data, progress) if compiles else nullcontext():
        losses = [found.step(sample, ids) for sample, ids in enumerate(data)]
        return losses, [outcome.dual for outcome in found.outcomes()], progress.notes


def agreement(one, other):
    """Return for how many weights two searches agree on whether they are above their matrix's median."""
    same = [(a > a.median()) == (b > b.median()) for a, b in zip(one, other, strict=True)]
    return float(torch.cat([matrix.flatten() for matrix in same]).float().mean())


def run(folder, out, *, compiles=True, mode="feedback", progress=None, save_every=1e9):
    """Search by the loop, in a run folder."""
    task = task_of(folder, compiles=compiles, mode=mode)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return search(task, model, CpuBackend(), out, save_every=save_every, progress=progress)


def task_of(folder, *, compiles, mode="feedback"):
    data = Calibration(batches(), 16 * SAMPLES, "fingerprint", 0, [])
    return SearchTask(Checkpoint.open(folder), data, settings_of(mode, {}), "tiny", {}, compiles=compiles)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("settings", "recomputes"), SEARCHES, ids=str)
def test_compiled_blocks_give_the_masks_of_those_that_are_not(llama, traced, settings, recomputes):
    losses, scores, _ = searched(llama, compiles=False, recomputes=recomputes, **settings)
    others, compiled_scores, notes = searched(llama, compiles=True, recomputes=recomputes, **settings)
    assert notes[0] == "compiling the decoder blocks"
    assert notes[1].startswith("compiled ")
    assert agreement(scores, compiled_scores) >= AGREEMENT
    assert losses == others == [None] * SAMPLES or losses == pytest.approx(others, rel=1e-5)


def test_what_is_compiled_for_one_block_serves_the_others(tmp_path, traced):
    notes = {}
    for layers in (2, 4):
        folder = save_llama(tmp_path / f"of-{layers}", dtype=torch.float32, layers=layers)
        notes[layers] = searched(folder, compiles=True, mode="frozen")[2][1].partition(" in ")[0]
    assert notes[2] == notes[4]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++, which this machine lacks")
def test_torch_writes_kernels_and_nothing_else(llama, tmp_path, monkeypatch, capfd):
    cache = tmp_path / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch._dynamo.reset()
    _, scores, _ = searched(llama, compiles=False, mode="frozen")
    capfd.readouterr()
    _, found, notes = searched(llama, compiles=True, mode="frozen")
    told = [line for line in capfd.readouterr().err.splitlines() if "Loading weights" not in line]
    assert not any(told)
    assert re.fullmatch(r"compiled [1-9]\d* graphs in \d+ s", notes[1])
    assert list(cache.rglob("*.cpp"))
    assert agreement(scores, found) >= AGREEMENT


def test_samples_of_many_lengths_share_what_is_compiled(llama, traced):
    data = [ids[:, :length] for ids, length in zip(batches(), (16, 9, 12, 16, 7, 11), strict=True)]
    losses, scores, _ = searched(llama, compiles=False, data=data)
    others, compiled_scores, _ = searched(llama, compiles=True, data=data)
    assert agreement(scores, compiled_scores) >= AGREEMENT
    assert losses == pytest.approx(others, rel=1e-5)


def test_of_a_mixture_what_holds_the_experts_runs_as_it_is(tmp_path, traced):
    save_mixture(tmp_path / "m")
    found = start(tmp_path / "m")
    blocks = decoder_blocks(found.model)[1]
    assert {block.mlp for block in blocks} <= set(called_apart(blocks, found.layers))
    losses, scores, _ = searched(tmp_path / "m", compiles=False)
    others, compiled_scores, notes = searched(tmp_path / "m", compiles=True)
    assert notes[1].startswith("compiled ")
    assert agreement(scores, compiled_scores) >= AGREEMENT
    assert losses == pytest.approx(others, rel=1e-5)


def test_a_search_that_was_interrupted_ends_with_the_same_bytes(llama, tmp_path, traced):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(llama, whole)
    with pytest.raises(KeyboardInterrupt):
        run(llama, cut, progress=Notes(stop_after=4), save_every="2samples")
    torch._dynamo.reset()  # as in another process
    progress = Notes()
    run(llama, cut, progress=progress)
    assert any(note.startswith("resuming after sample ") for note in progress.notes)
    assert files(cut) == files(whole)
    assert json.loads((whole / "run.json").read_text())[COMPILED] is True


@pytest.mark.parametrize("first", [True, False])
def test_a_search_resumes_only_as_it_was_started(llama, tmp_path, traced, first):
    with pytest.raises(KeyboardInterrupt):
        run(llama, tmp_path / "run", compiles=first, mode="frozen", progress=Notes(stop_after=4), save_every="2samples")
    with pytest.raises(RunError, match=f"an unfinished search that differs in its {COMPILED}"):
        run(llama, tmp_path / "run", compiles=not first, mode="frozen")


def test_where_nothing_can_be_compiled_the_search_says_so_once_and_is_the_plain_one(llama, tmp_path, uncompilable):
    plain, fallen = tmp_path / "plain", tmp_path / "fallen"
    progress = Notes()
    run(llama, plain, compiles=False)
    run(llama, fallen, progress=progress)
    assert [note for note in progress.notes if "compil" in note] == ["compiling the decoder blocks", NOTE]
    assert (plain / "dual.safetensors").read_bytes() == (fallen / "dual.safetensors").read_bytes()
    recorded = json.loads((fallen / "run.json").read_text())
    assert (recorded.get(COMPILED), recorded[NOT_COMPILED]) == (None, REASON)
    # the same command finds what it would make again
    assert finished_search(task_of(llama, compiles=True), CpuBackend(), fallen) is not None
    with pytest.raises(RunError, match=f"a finished search that differs in its {COMPILED}"):
        finished_search(task_of(llama, compiles=False), CpuBackend(), fallen)
    with pytest.raises(RunError, match=f"a finished search that differs in its {COMPILED}"):
        finished_search(task_of(llama, compiles=True), CpuBackend(), plain)


def test_what_torch_would_not_compile_at_all_is_said(llama, traced):
    with torch.compiler.set_stance("force_eager"):
        _, _, notes = searched(llama, compiles=True, mode="frozen")
    assert notes[1].endswith("could not be compiled: torch found nothing in them to compile")


@pytest.mark.parametrize("compiler", ["traced", "uncompilable"])
def test_a_model_in_memory_is_left_as_it_was(home, request, compiler):
    request.getfixturevalue(compiler)
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    kinds = [type(module) for module in model.modules()]
    scores = unipruning.search(
        model,
        AutoTokenizer.from_pretrained(home / "model"),
        data=str(home / "text.txt"),
        samples=2,
        seq_len=16,
        compile=True,
        progress=False,
    )
    assert [type(module) for module in model.modules()] == kinds
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = {COMPILED: True} if compiler == "traced" else {NOT_COMPILED: REASON}
    assert {key: scores.provenance[key] for key in (COMPILED, NOT_COMPILED) if key in scores.provenance} == expected


def test_the_command_records_it_and_its_record_repeats_it(search_words, tmp_path, traced):
    first, again = tmp_path / "first", tmp_path / "again"
    words = ["--mode", "frozen", "--sparsity", "50%"]
    assert main(["prune", *search_words, *words, "--compile", "--out", str(first)]) == 0
    record = str(first / "unipruning.json")
    assert vars(parsed(build_parser(), ["prune", "--config", record, "--out", "x"]))["compile"] is True
    assert main(["prune", "--config", record, "--out", str(again)]) == 0
    assert files(tmp_path / "again-run") == files(tmp_path / "first-run")
    assert COMPILED in json.loads((tmp_path / "again-run" / "run.json").read_text())


def test_a_recipe_may_ask_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--dump-config", "m", "--out", "r", "--compile"]) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    assert vars(parsed(build_parser(), ["search", "--config", "recipe.yaml"]))["compile"] is True


def test_a_model_is_rehearsed_with_its_weights_and_then_holds_them_in_16_bits(tmp_path, traced, monkeypatch):
    folder, order = save_llama(tmp_path / "m", dtype=torch.bfloat16), []

    def noted(name):
        plain = getattr(FeedbackSearch, name)

        def method(self, *given):
            order.append(name)
            return plain(self, *given)

        return method

    for name in ("rehearse", "own_model"):
        monkeypatch.setattr(FeedbackSearch, name, noted(name))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    task = task_of(folder, compiles=True)
    assert search(task, model, CpuBackend(), tmp_path / "out").description[COMPILED]
    assert order == ["rehearse", "own_model"]
    assert model.model.layers[0].self_attn.q_proj.weight.untyped_storage().nbytes() == 4

"""The loop around a mode: folders, progress, resumption after a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from _checkpoints import save_llama
from _modes import chosen
from transformers import AutoModelForCausalLM

from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import CheckpointError, OutputError, RunError
from unipruning_core.progress import Progress
from unipruning_core.search import parts, resume, run_folder
from unipruning_core.search.claim import claimed_run
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.search.loop import SearchTask, search
from unipruning_core.search.run_folder import DUAL_FILE, INPUTS_FILE
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.ownership import MARKER
from unipruning_cpu.backend import CpuBackend


def calibration(samples=5):
    generator = torch.Generator().manual_seed(4)
    batches = [torch.randint(48, (1, 16), generator=generator) for _ in range(samples)]
    return Calibration(batches, 16 * samples, f"fingerprint of {samples}")


def run(folder, out, samples=5, model=None, **options):
    settings = chosen(**{"mode": "drift", "metric": "stochria", **options.pop("settings", {})})
    task = SearchTask(Checkpoint.open(folder), calibration(samples), settings, "tiny", {"samples": samples})
    model = model or AutoModelForCausalLM.from_pretrained(folder)
    return search(task, model, CpuBackend(), out, save_every=options.pop("save_every", 1e9), **options)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def model(tmp_path):
    return save_llama(tmp_path / "model")


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled"])
def test_two_runs_give_the_same_bytes_and_only_the_files_of_a_run(model, tmp_path, mode):
    first = run(model, tmp_path / "a", settings={"mode": mode})
    run(model, tmp_path / "b", settings={"mode": mode})
    assert {str(name) for name in content(tmp_path / "a")} == {RUN_FILE, DUAL_FILE, MARKER} | (
        {INPUTS_FILE} if mode == "frozen" else set()
    )
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(first.description["losses"]) == (0 if mode == "frozen" else 5)
    assert len(first.description.get("threshold_trace", [])) == (0 if mode == "frozen" else 5)


class InterruptedSearchError(BaseException):
    """Like an interruption, and unlike an error of the model, it is no Exception."""


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled"])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_search_ends_with_the_same_bytes(model, tmp_path, mode, after, monkeypatch):
    run(model, tmp_path / "whole", settings={"mode": mode})
    loaded = AutoModelForCausalLM.from_pretrained(model)
    forward, calls = loaded.model.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise InterruptedSearchError
        return forward(*args, **kwargs)

    loaded.model.forward = interrupted
    with pytest.raises(InterruptedSearchError):
        run(model, tmp_path / "cut", model=loaded, settings={"mode": mode}, save_every=0.0)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["unfinished"]
    states = {f"resume-{done:08d}" for done in (after - 1, after) if done}
    assert {path.name for path in (tmp_path / "cut").glob("*/*")} == {MARKER} | states
    run(model, tmp_path / "cut", settings={"mode": mode})
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


KILLED = """
    import sys
    sys.path.insert(0, {tests!r})
    import test_search
    from pathlib import Path
    print("started", flush=True)
    test_search.run(Path({model!r}), Path({out!r}), samples=400, save_every=0.0)
"""


def test_a_search_killed_at_any_moment_resumes_to_the_same_bytes(model, tmp_path):
    run(model, tmp_path / "whole", samples=400)
    code = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), model=str(model), out=str(tmp_path / "cut"))
    kills = 0
    for pause in (0.15, 0.4, 0.7, 1.0):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += not (tmp_path / "cut" / RUN_FILE).exists()
    assert kills, "the search finished before it was killed even once"
    run(model, tmp_path / "cut", samples=400)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_an_unfinished_search_with_other_settings_is_not_mixed_with_this_one(model, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(model)
    forward, calls = loaded.model.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise InterruptedSearchError
        return forward(*args, **kwargs)

    loaded.model.forward = interrupted
    with pytest.raises(InterruptedSearchError):
        run(model, tmp_path / "cut", model=loaded, save_every=0.0)
    with pytest.raises(RunError, match="unfinished search that differs in its settings"):
        run(model, tmp_path / "cut", settings={"metric": "ria"})
    with pytest.raises(RunError, match="unfinished search that differs in its data"):
        run(model, tmp_path / "cut", samples=6)
    run(model, tmp_path / "cut", settings={"metric": "ria"}, overwrite=True)
    run(model, tmp_path / "fresh", settings={"metric": "ria"})
    assert content(tmp_path / "cut") == content(tmp_path / "fresh")


def test_a_finished_search_is_not_overwritten_unasked(model, tmp_path):
    run(model, tmp_path / "a")
    before = content(tmp_path / "a")
    with pytest.raises(OutputError, match="already holds a finished search"):
        run(model, tmp_path / "a")
    assert content(tmp_path / "a") == before


def test_a_model_that_cannot_be_searched_does_not_cost_the_earlier_result(model, tmp_path):
    run(model, tmp_path / "a")
    before = content(tmp_path / "a")
    with pytest.raises(CheckpointError, match="no list of repeated blocks"):
        run(model, tmp_path / "a", model=torch.nn.Linear(2, 2), overwrite=True)
    assert content(tmp_path / "a") == before


def fill(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    return folder


@pytest.mark.parametrize(
    "files",
    [
        ["thesis.tex"],
        ["resume.pdf"],
        ["resume-00000001/state.json"],
        ["run.json", "thesis.tex"],
        ["run.json"],
        ["unfinished/thesis.tex"],
        ["unfinished/resume-00000001/state.json"],
        ["dual.safetensors", ".unipruning.json"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(("overwrite", "fault"), [(False, "is not empty"), (True, "remove it yourself")])
def test_a_folder_with_other_things_is_never_touched(tmp_path, files, overwrite, fault):
    before = content(fill(tmp_path, files))
    with pytest.raises(OutputError, match=fault), claimed_run(tmp_path, overwrite=overwrite):
        pytest.fail("it is not ours")
    assert content(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"), claimed_run(tmp_path / "file", overwrite=True):
        pytest.fail("there is nowhere to write")


class Full:
    """A disk that holds no more tensors, once ``fill`` was called."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def fill(self):
        class Stream(parts.TensorStream):
            def append(self, tensor):
                raise OSError(28, "No space left on device")

        for module in (parts, run_folder):
            self.monkeypatch.setattr(module, "TensorStream", Stream)


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_save_that_fails_is_said_once_and_tried_again(model, tmp_path, monkeypatch):
    run(model, tmp_path / "whole")
    saved, saves, progress = resume.Resume.save, [], Notes()

    def save(self, *args):
        saves.append(args[0])
        if args[0] in (2, 3):
            (self.folder / "resume.partial").mkdir()
            (self.folder / "resume.partial" / "a.file").write_text("")
            with monkeypatch.context() as patch:
                Full(patch).fill()
                saved(self, *args)
        saved(self, *args)

    monkeypatch.setattr(resume.Resume, "save", save)
    run(model, tmp_path / "cut", save_every=0.0, progress=progress)
    assert saves == [1, 2, 3, 4]
    assert [note for note in progress.notes if "saved" in note] == [
        "the state after sample 2 of 5 could not be saved (No space left on device), which is tried again later; "
        "the state after sample 1 is kept"
    ]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_result_that_fits_nowhere_says_what_remains_and_the_same_command_goes_on(model, tmp_path, monkeypatch):
    saved = resume.Resume.save

    def save(self, *args):
        saved(self, *args)
        Full(monkeypatch).fill()

    monkeypatch.setattr(resume.Resume, "save", save)
    with pytest.raises(OutputError) as caught:
        run(model, tmp_path / "cut", save_every=0.0)
    assert str(caught.value) == (
        f"the result of the search cannot be written to {str(tmp_path / 'cut')!r}: No space left on device; "
        "free some space there; the state after sample 1 is kept, and the same command goes on from there"
    )
    monkeypatch.undo()
    assert (tmp_path / "cut" / "unfinished" / "resume-00000001").is_dir()
    run(model, tmp_path / "cut")
    run(model, tmp_path / "whole")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

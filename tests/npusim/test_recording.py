"""Samples of a search recorded as graphs of torch_npu: the same bytes with hardly a call, or a note and as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Simulated = Callable[..., str]

SEARCHES = """
import contextlib, io, json, os, warnings
from unipruning_core.cli.main import main
from unipruning_core.jobs import opened
from unipruning_core.search.feedback import FeedbackSearch
from unipruning_npu.backend import NpuBackend

warnings.filterwarnings("error", message="The AccumulateGrad node")
home, calls, junk, process, load = Path({home!r}), [], [], FeedbackSearch.process, opened.load_model

def traced(*arguments):
    torch.npu.synchronize()
    path = home / "trace"
    path.write_text("")
    os.environ["NPUSIM_TRACE"] = str(path)
    losses = process(*arguments)
    torch.npu.synchronize()
    os.environ["NPUSIM_TRACE"] = "0"
    calls[-1].append([line.split("\\t")[0] for line in path.read_text().splitlines()])
    # what a later replay wrote here, or read from here, would show
    junk.extend(torch.full((size,), torch.nan).npu() for size in (1 << 7, 1 << 13, 1 << 18))
    return losses

def load_and_read(*arguments, **options):
    loaded = load(*arguments, **options)
    loaded.lm_head.register_forward_hook(lambda module, inputs, output: output.sum().item() and None)
    return loaded

def search(out, *words):
    calls.append([])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*{words!r}, "--out", str(home / out), *words]) == 0, said.getvalue()
    return said.getvalue().count("samples run step by step")

FeedbackSearch.process = traced
notes, choices = [], {choices!r}
for name, words in choices.items():
    notes.append(search(f"{{name}}-recorded", *words))
opened.load_model = load_and_read
notes.append(search("read", *choices["still"]))
opened.load_model = load
NpuBackend.recorded = lambda self, work: None
for name, words in choices.items():
    notes.append(search(f"{{name}}-plain", *words))
OUT.write_text(json.dumps([calls, notes, all(bool(tensor.isnan().all()) for tensor in junk)]))
"""
CHOICES = {"ramp": [], "pattern": ["--pattern", "2:4"], "still": ["--learning-rate", "0"]}
SAMPLES, PLAIN = 5, 2  # of which as many are run before one is recorded
FILES = ("dual.safetensors", "run.json")


@pytest.fixture(scope="module", params=["0", "1"], ids=["queued", "blocking"])
def searched(
    request: pytest.FixtureRequest, simulated: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[list[str]]], list[int], bool]:
    """Searches recorded, and not: their folder, the calls of each sample, how often each said so, and other memory."""
    home = tmp_path_factory.mktemp("recording")
    simulated(f"from _jobs import make_tiny\nmake_tiny(Path({str(home)!r}))\nOUT.write_text('')")
    words = ["search", str(home / "model"), "--data", str(home / "text.jsonl"), "--mode", "feedback"]
    words += ["--samples", str(SAMPLES), "--seq-len", "32", "--backend", "npu", "--dtype", "bfloat16"]
    code = SEARCHES.format(home=str(home), words=words, choices=CHOICES)
    calls, notes, untouched = json.loads(simulated(code, ASCEND_LAUNCH_BLOCKING=request.param))
    return home, calls, notes, untouched


def test_a_recorded_search_gives_the_bytes_of_a_plain_one(searched) -> None:
    home, _, notes, untouched = searched
    for name in CHOICES:
        for file in FILES:
            recorded, plain = (home / f"{name}-{how}" / file for how in ("recorded", "plain"))
            assert recorded.read_bytes() == plain.read_bytes(), (name, file)
    assert notes[: len(CHOICES)] == [0] * len(CHOICES)
    assert untouched


def test_a_replayed_sample_is_a_handful_of_calls(searched) -> None:
    _, calls, _, _ = searched
    for recorded, plain in zip(calls[: len(CHOICES)], calls[-len(CHOICES) :], strict=True):
        assert min(map(len, plain)) > 700
        for sample, made in enumerate(recorded):
            if sample < PLAIN:
                assert len(made) > 700
            assert made.count("aclmdlRIExecuteAsync") == (sample >= PLAIN)
            if sample > PLAIN:
                # three numbers of the sample, its tokens, the replay, and the loss together with the threshold
                assert sorted(made) == sorted(
                    ["aclnnInplaceFillScalar"] * 3 + ["aclnnInplaceCopy", "aclmdlRIExecuteAsync", "copy to host"]
                )


def test_a_sample_that_reads_a_value_is_run_as_it_is_and_said_once(searched) -> None:
    home, calls, notes, _ = searched
    assert notes[len(CHOICES)] == 1
    assert not any("aclmdlRIExecuteAsync" in made for made in calls[len(CHOICES)])
    for file in FILES:
        assert (home / "read" / file).read_bytes() == (home / "still-plain" / file).read_bytes()


FAILURES = """
import gc, json
from unipruning_npu.backend import NpuBackend
npu, backend = torch.npu, NpuBackend()
x, y, stream = torch.ones(1 << 20).npu(), torch.zeros(1 << 20).npu(), npu.Stream()

def state():
    gc.collect()
    npu.synchronize()
    npu.empty_cache()
    return npu.current_stream().npu_stream, npu.get_task_queue_enable(), npu.memory_reserved()

def attempt(work):
    try:
        replay = backend.recorded(lambda: exec(work))
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}".splitlines()[0]
    y.zero_()
    replay()
    return float(y.sum())

found = []
for work in {works!r}:
    before, answer = state(), attempt(work)
    left = state()
    # that the device still computes; after some errors, torch_npu's queue throws away whatever it is given
    computed = [float(y.fill_(value).mul_(2)[0]) for value in (3, 7)]
    found.append([answer, left == before, computed])
OUT.write_text(json.dumps(found))
"""
WORKS = {
    "z = x * 2; y.add_(z)": "2097152.0",
    "z = x * 2; y.add_(z); z.sum().item()": "error code is 107027",
    "y.copy_(torch.ones(1 << 20), non_blocking=True)": "error code is 107027",
    "stream.wait_stream(npu.current_stream())\nwith npu.stream(stream): y.add_(x)": "error code is 107025",
    "x.nonzero()": "Cannot run aclop operators during NPU graph capture",
    "y.add_(x); raise ValueError('of the work')": "ValueError: of the work",
}


@pytest.mark.parametrize("blocking", ["0", "1"])
def test_a_recording_that_fails_leaves_the_device_as_it_was(simulated: Simulated, blocking: str) -> None:
    found = json.loads(simulated(FAILURES.format(works=list(WORKS)), ASCEND_LAUNCH_BLOCKING=blocking))
    for (work, said), (answer, same, computed) in zip(WORKS.items(), found, strict=True):
        assert said in str(answer), work
        assert same, work
        assert computed == [6, 14], work


def test_an_older_torch_npu_records_only_without_its_queue(simulated: Simulated) -> None:
    code = "del torch.npu.set_task_queue_enable, torch.npu.get_task_queue_enable\n" + FAILURES.replace(
        "npu.get_task_queue_enable()", "0"
    )
    works = list(WORKS)[:3]
    answers = [
        [answer for answer, *_ in json.loads(simulated(code.format(works=works), ASCEND_LAUNCH_BLOCKING="0", **knobs))]
        for knobs in ({}, {"TASK_QUEUE_ENABLE": "0"})
    ]
    refusal = "torch_npu before 2.13 can record only if TASK_QUEUE_ENABLE=0 is set in the environment"
    assert answers[0] == [f"RuntimeError: {refusal}"] * len(works)
    assert all(said in str(answer) for said, answer in zip(WORKS.values(), answers[1], strict=False))

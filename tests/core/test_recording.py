"""A recorded sample: when the backend is asked, what it replays, and what happens where it cannot."""

import gc

import pytest
import torch
from _checkpoints import save_gpt2, save_llama
from _mixtures import LAYOUTS
from _modes import SAMPLES, batches, start
from _replaying import ReplayingBackend
from torch.autograd.graph import get_gradient_edge

from unipruning_core.models.experts import apart
from unipruning_core.search.recording import PLAIN, Recorded
from unipruning_core.testing.replaying import REFUSED
from unipruning_cpu.backend import CpuBackend


class Refusing(ReplayingBackend):
    def recorded(self, work):
        work()  # as far as it gets
        raise RuntimeError(f"{REFUSED}\nmore")


class Plain(ReplayingBackend):
    def recorded(self, work):
        return None


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "m", dtype=torch.float32)


def finished(folder, backend, monkeypatch, data=None, prepare=lambda search: None, **settings):
    """A search on a backend, with its losses, its state and the scores it ends with."""
    monkeypatch.setattr("_modes.CpuBackend", lambda: backend)
    data = batches() if data is None else data
    search = start(folder, len(data), mode="feedback", **settings)
    prepare(search)
    losses = [search.step(sample, ids) for sample, ids in enumerate(data)]
    recorded = search.recorder.recorded
    state = {name: tensor.clone() for name, tensor in search.tensors().items()}
    return search, recorded, losses, state, [outcome.dual for outcome in search.outcomes()]


def compared(folder, monkeypatch, **options):
    """Run a search plainly and recorded, and check that nothing differs; return the backend and the search."""
    backend = ReplayingBackend()
    _, _, plain_losses, plain_state, plain = finished(folder, Plain(), monkeypatch, **options)
    search, recorded, losses, state, scores = finished(folder, backend, monkeypatch, **options)
    assert losses == plain_losses
    assert {name for name in state if not torch.equal(state[name], plain_state[name])} == set()
    assert all(torch.equal(one, other) for one, other in zip(scores, plain, strict=True))
    return backend, search, recorded


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pattern": "2:4"},
        {"learning_rate": 0.0},
        {"metric": "stochria"},
        {"metric": "magnitude"},
        {"local_exponent": 0.5, "ramp_fraction": 1.0},
    ],
    ids=str,
)
def test_a_replayed_sample_ends_in_the_same_bytes(folder, monkeypatch, settings):
    backend, search, recorded = compared(folder, monkeypatch, **settings)
    assert (backend.recordings, backend.replays) == (1, SAMPLES - PLAIN)
    assert recorded
    assert search.steps.tolist() == [SAMPLES] * len(search.layers)
    assert search.notes == []


@pytest.mark.parametrize("kind", ["bfloat16", "inputs first", "loss in chunks", "activations again"])
def test_a_replayed_sample_of_any_kind_of_model_ends_in_the_same_bytes(tmp_path, monkeypatch, kind):
    folder = save_gpt2(tmp_path / "m") if kind == "inputs first" else save_llama(tmp_path / "m")
    if kind == "loss in chunks":
        monkeypatch.setattr("unipruning_core.search.language_loss.LOGITS", 4 * 48)

    def prepare(search):
        search.recomputes = kind == "activations again"

    backend, search, recorded = compared(folder, monkeypatch, prepare=prepare)
    assert recorded
    assert backend.replays == SAMPLES - PLAIN
    assert bool(search.language_loss.agrees) == (kind == "loss in chunks")


def test_samples_of_other_lengths_between_replayed_ones_change_nothing(folder, monkeypatch):
    data = [ids[:, :9] if number in (4, 6) else ids for number, ids in enumerate(batches(9))]
    backend, _, recorded = compared(folder, monkeypatch, data=data)
    assert recorded
    assert backend.replays == len(data) - PLAIN - 2


def test_a_sample_is_recorded_after_others_of_its_length(folder, monkeypatch):
    lengths = [16, 9, 16, 12, 12, 16, 16, 16, 16]
    data = [ids[:, :length] for length, ids in zip(lengths, batches(len(lengths)), strict=True)]
    backend, search, recorded = compared(folder, monkeypatch, data=data)
    assert recorded
    assert (backend.recordings, backend.replays) == (1, 2)
    assert search.notes == []


# how many tokens an expert has seen is known on the host alone
def test_a_mixture_of_experts_is_never_recorded(tmp_path, monkeypatch):
    LAYOUTS["of_one_tensor_each"]().save_pretrained(tmp_path)
    backend = ReplayingBackend()
    monkeypatch.setattr("_modes.CpuBackend", lambda: backend)
    search = start(tmp_path, mode="feedback")
    with apart(search.layers):
        for sample, ids in enumerate(batches()):
            search.step(sample, ids)
    assert backend.recordings == 0
    assert search.notes == []


def test_a_sample_that_cannot_be_recorded_is_run_and_said_once(folder, monkeypatch):
    _, _, plain_losses, *_ = finished(folder, Plain(), monkeypatch)
    search, recorded, losses, *_ = finished(folder, Refusing(), monkeypatch)
    assert not recorded
    assert len(losses) == SAMPLES
    assert losses[:PLAIN] == plain_losses[:PLAIN]
    assert search.notes == [f"samples run step by step, since one could not be recorded: {REFUSED}"]


def test_what_is_read_on_the_host_ends_the_recording_and_leaves_the_sample_right(folder, monkeypatch):
    _, _, plain_losses, _, plain = finished(folder, Plain(), monkeypatch)

    def prepare(search):
        made = search.drawn.sorted
        search.drawn.sorted = lambda: made() * (float(made()[0]) + 1 - float(made()[0]))

    search, recorded, losses, _, scores = finished(folder, ReplayingBackend(), monkeypatch, prepare=prepare)
    assert not recorded
    assert losses == plain_losses
    assert all(torch.equal(one, other) for one, other in zip(scores, plain, strict=True))
    assert len(search.notes) == 1


def test_the_memory_of_a_recording_is_given_back_before_the_end(folder, monkeypatch):
    search, recorded, *_ = finished(folder, ReplayingBackend(), monkeypatch)
    assert recorded
    assert not search.recorder.recorded


# a device cannot record a backward pass into a node that an earlier one, on another stream, has left behind
@pytest.mark.parametrize("left_behind", [False, True])
def test_a_sample_leaves_nothing_of_its_graph_behind(folder, monkeypatch, left_behind):
    monkeypatch.setattr("_modes.CpuBackend", Plain)
    search = start(folder, mode="feedback")
    backward, losses = search._backward, []

    def noting(loss, use):
        if left_behind:
            losses.append(loss)
        for layer in search.layers:
            get_gradient_edge(layer.parameter).node.metadata["of a sample"] = True
        backward(loss, use)

    search._backward = noting
    gc.disable()
    try:
        search.step(0, batches()[0])
        nodes = [get_gradient_edge(layer.parameter).node for layer in search.layers]
    finally:
        gc.enable()
    assert {"of a sample" in node.metadata for node in nodes} == {left_behind}


def test_the_work_finds_its_input_and_leaves_its_loss_in_the_same_memory():
    seen = []

    def work(ids):
        seen.append(ids.data_ptr())
        return ids.sum().float()

    recorded = Recorded(work, ReplayingBackend(), [])
    inputs = [torch.tensor([[number, 2]]) for number in range(6)]
    losses = [recorded(ids) for ids in inputs]
    assert [float(loss) for loss in losses[:PLAIN]] == [2.0, 3.0]
    assert float(losses[-1]) == 7.0
    assert len(seen) == PLAIN + 1, "what is replayed is not run"
    assert len({loss.data_ptr() for loss in losses[PLAIN:]}) == 1


def test_a_sample_of_another_length_is_run_plainly():
    backend = ReplayingBackend()
    recorded = Recorded(lambda ids: ids.sum().float(), backend, [])
    for _ in range(4):
        recorded(torch.ones(1, 8, dtype=torch.int64))
    assert float(recorded(torch.ones(1, 5, dtype=torch.int64))) == 5.0
    assert (backend.recordings, backend.replays) == (1, 2)


def test_what_a_replay_reads_is_kept_though_the_work_takes_another():
    held = {}

    def work(ids):
        if held.get("length") != ids.shape[1]:
            held.update(length=ids.shape[1], scale=torch.full((1,), float(ids.shape[1])))
        return ids.sum() * held["scale"]

    lengths = [2, 2, 2, 3, 2]
    kept = Recorded(work, ReplayingBackend(), [], lambda: held["scale"])
    assert [float(kept(torch.ones(1, length, dtype=torch.int64))) for length in lengths] == [4, 4, 4, 9, 4]
    held.clear()
    lost = Recorded(work, ReplayingBackend(), [])
    with pytest.raises(AssertionError, match="is gone"):
        [lost(torch.ones(1, length, dtype=torch.int64)) for length in lengths]


def test_a_backend_that_records_nothing_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(CpuBackend, "recorded", lambda self, work: asked.append(work))
    recorded = Recorded(lambda ids: ids.sum().float(), CpuBackend(), [])
    for _ in range(5):
        recorded(torch.ones(1, 8, dtype=torch.int64))
    assert len(asked) == 1
    assert not recorded.recorded

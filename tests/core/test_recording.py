"""A recorded sample: when the backend is asked, what it replays, and what happens where it cannot."""

import pytest
import torch
from _checkpoints import save_llama
from _modes import SAMPLES, batches, start

from unipruning_core.search.recording import PLAIN, Recorded
from unipruning_cpu.backend import CpuBackend


class Replaying(CpuBackend):
    """A backend that records by keeping the work, and counts."""

    def __init__(self):
        super().__init__()
        self.recordings = self.replays = 0

    def recorded(self, work):
        self.recordings += 1

        def replay():
            self.replays += 1
            work()

        return replay


class Refusing(CpuBackend):
    def recorded(self, work):
        work()  # as far as it gets
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "m", dtype=torch.float32)


def finished(folder, backend, monkeypatch):
    """A search on a backend, with its losses and the scores it ends with."""
    monkeypatch.setattr("_modes.CpuBackend", lambda: backend)
    search = start(folder, mode="feedback")
    losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
    return search, losses, [outcome.dual for outcome in search.outcomes()]


def test_a_replayed_sample_ends_in_the_same_bytes(folder, monkeypatch):
    backend = Replaying()
    _, plain_losses, plain = finished(folder, CpuBackend(), monkeypatch)
    search, losses, scores = finished(folder, backend, monkeypatch)
    assert (backend.recordings, backend.replays) == (1, SAMPLES - PLAIN)
    assert search.recorder.recorded
    assert losses == plain_losses
    assert all(torch.equal(one, other) for one, other in zip(scores, plain, strict=True))
    assert search.steps.tolist() == [SAMPLES] * len(search.layers)
    assert search.notes == []


def test_a_sample_that_cannot_be_recorded_is_run_and_said_once(folder, monkeypatch):
    _, plain_losses, _ = finished(folder, CpuBackend(), monkeypatch)
    search, losses, _ = finished(folder, Refusing(), monkeypatch)
    assert not search.recorder.recorded
    assert len(losses) == SAMPLES
    assert losses[:PLAIN] == plain_losses[:PLAIN]
    assert search.notes == [
        "samples run step by step, since one could not be recorded: operation not permitted when stream is capturing"
    ]


def test_the_work_finds_its_input_and_leaves_its_loss_in_the_same_memory():
    seen = []

    def work(ids):
        seen.append(ids.data_ptr())
        return ids.sum().float()

    recorded = Recorded(work, Replaying(), [])
    inputs = [torch.tensor([[number, 2]]) for number in range(6)]
    losses = [recorded(ids) for ids in inputs]
    assert [float(loss) for loss in losses[:PLAIN]] == [2.0, 3.0]
    assert float(losses[-1]) == 7.0
    assert len(set(seen[PLAIN:])) == 1
    assert len({loss.data_ptr() for loss in losses[PLAIN:]}) == 1


def test_a_sample_of_another_length_is_run_plainly():
    backend = Replaying()
    recorded = Recorded(lambda ids: ids.sum().float(), backend, [])
    for _ in range(4):
        recorded(torch.ones(1, 8, dtype=torch.int64))
    assert float(recorded(torch.ones(1, 5, dtype=torch.int64))) == 5.0
    assert (backend.recordings, backend.replays) == (1, 2)


def test_a_backend_that_records_nothing_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(CpuBackend, "recorded", lambda self, work: asked.append(work))
    recorded = Recorded(lambda ids: ids.sum().float(), CpuBackend(), [])
    for _ in range(5):
        recorded(torch.ones(1, 8, dtype=torch.int64))
    assert len(asked) == 1
    assert not recorded.recorded

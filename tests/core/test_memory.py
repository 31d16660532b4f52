"""Searches that are short of memory: one device or several, a refusal with numbers, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _checkpoints import save_llama, targets_of

from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import ConfigError
from unipruning_core.models import placement
from unipruning_core.models.memory import loaded_bytes, memory_errors_as_config_errors
from unipruning_core.registry import Catalogue
from unipruning_core.search import memory
from unipruning_core.search.drift import DriftSearch
from unipruning_core.search.loop import SearchTask, search
from unipruning_core.search.memory import check_memory, held_bytes
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Checkpoint

BACKEND: Any = SimpleNamespace(name="some", device_type="some")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("model")))


def checked(model: Checkpoint, monkeypatch: pytest.MonkeyPatch, fractions: list[float]) -> list[int]:
    """Check a search on devices that have these fractions of what it holds free."""
    task = model, targets_of(model), MODES["feedback"](), torch.bfloat16
    each = [int(fraction * held_bytes(*task)) for fraction in fractions]
    monkeypatch.setattr(memory, "free_bytes", lambda *_: each[0])
    monkeypatch.setattr(memory, "free_bytes_each", lambda _: each)
    return check_memory(*task, BACKEND)


def test_a_search_that_fits_the_first_device_stays_there(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checked(model, monkeypatch, [1.0, 9.0])) == 1


def test_a_search_that_fits_only_on_several_devices_is_spread_by_their_free_memory(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_per_device = checked(model, monkeypatch, [0.5, 0.75])
    whole = loaded_bytes(model, torch.bfloat16)
    assert bytes_per_device == [pytest.approx(0.5 * whole, rel=0.01), pytest.approx(0.75 * whole, rel=0.01)]


def test_a_search_that_fits_no_number_of_devices_is_refused(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"needs .* GiB is free on the 3 some devices; --mode frozen"):
        checked(model, monkeypatch, [0.3, 0.3, 0.3])


def test_what_several_devices_need_is_checked_before_the_model_is_loaded(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"fits on 2 some devices but not on one.*pip install accelerate"):
        checked(model, monkeypatch, [0.6, 0.6])


def test_running_out_of_memory_is_reported_with_the_numbers_of_torch() -> None:
    numbers = "X out of memory. Tried to allocate 2.00 GiB (X 0; 8.00 GiB total capacity)"
    with pytest.raises(ConfigError) as caught, memory_errors_as_config_errors(BACKEND):
        raise torch.OutOfMemoryError(f"{numbers} If reserved memory is >> allocated memory, set something.\nMore")
    assert str(caught.value).startswith(f"the some device ran out of memory ({numbers}); use a shorter --seq-len")


@pytest.mark.parametrize(("mode", "part"), [("drift", "step"), ("drift", "outcomes")])
def test_a_search_that_fails_before_anything_is_saved_leaves_no_folder(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, part: str
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(DriftSearch, part, fail)
    batches = [torch.arange(16).view(1, 16)]
    task = SearchTask(model, Calibration(batches, 16, "text", 0), MODES[mode](), "model", {})
    loaded = AutoModelForCausalLM.from_pretrained(model.folder)
    with pytest.raises(ConfigError if part == "step" else torch.OutOfMemoryError, match="no memory"):
        search(task, loaded, Catalogue().select("cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Device:
    """A device of 100 bytes, of which an allocator keeps 60 that nothing uses any more."""

    kept = 60

    def empty_cache(self):
        self.kept = 0

    def mem_get_info(self, index=0):
        return 90 - self.kept, 100

    def device_count(self):
        return 2


def test_what_earlier_work_has_freed_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda _: Device())
    assert (memory.free_bytes("any"), memory.free_bytes("any", 50)) == (90, 50)
    assert memory.free_bytes_each("any") == [90, 90]

"""What a search that does not fit says of the ones that would."""

import weakref

import pytest
import torch
from _checkpoints import content, save_llama
from transformers import AutoModelForCausalLM

from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import ConfigError
from unipruning_core.search.drift import DriftSearch
from unipruning_core.search.feedback import FeedbackSearch
from unipruning_core.search.frozen import FrozenSearch
from unipruning_core.search.loop import SearchTask, search
from unipruning_core.search.memory import held_parts, smaller_search
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

WEIGHTS, SIZES = 10**9, [10**8] * 8
SINGLE, HALF = [torch.bfloat16], [torch.float32, torch.bfloat16]


def needed(mode, dtype):
    return sum(held_parts(WEIGHTS, SIZES, MODES[mode](), dtype.itemsize).values())


@pytest.mark.parametrize(
    ("mode", "dtypes", "free", "words"),
    [
        ("feedback", HALF, needed("feedback", torch.bfloat16), "--dtype bfloat16 needs 5.3 GiB"),
        ("feedback", HALF, needed("frozen", torch.float32), "--mode frozen needs 4.1 GiB"),
        ("feedback", HALF, needed("frozen", torch.bfloat16), "--mode frozen --dtype bfloat16 needs 2.2 GiB"),
        ("drift", SINGLE, needed("feedback", torch.bfloat16), "--mode feedback needs 5.3 GiB"),
        ("drift", SINGLE, needed("frozen", torch.bfloat16), "--mode frozen needs 2.2 GiB"),
        ("drift", HALF, 10**9, "even --mode frozen --dtype bfloat16 needs 2.2 GiB, so use a device with more memory"),
        ("frozen", HALF, 10**9, "even --dtype bfloat16 needs 2.2 GiB, so use a device with more memory"),
        ("frozen", SINGLE, 10**9, "nothing needs less than 2.2 GiB, so use a device with more memory"),
    ],
)
def test_the_first_smaller_search_that_fits_is_named(mode, dtypes, free, words):
    assert smaller_search(WEIGHTS, SIZES, MODES[mode](), dtypes, free) == words


TOKENS = 64
ADDED = "the sample fits with --checkpoint-activations on, which may be added to the same command"


def searched(folder, out, mode, loaded=None):
    generator = torch.Generator().manual_seed(4)
    batches = [torch.randint(48, (1, TOKENS), generator=generator) for _ in range(4)]
    task = SearchTask(Checkpoint.open(folder), Calibration(batches, 4 * TOKENS, "text"), MODES[mode](), "tiny", {})
    loaded = loaded or AutoModelForCausalLM.from_pretrained(folder)
    return search(task, loaded, CpuBackend(), out, save_every=0)


class Small:
    """A device whose memory suffices for two samples, and then for as many tokens, by whether activations are kept."""

    def __init__(self, monkeypatch, loaded, kind, kept, recomputed):
        self.room = {False: kept, True: recomputed}
        self.held = []
        loaded.model.norm.register_forward_hook(self.allocate)
        real = kind.process

        def process(search, number, batch):
            self.limit = TOKENS if number < 2 else self.room[search.recomputes]
            return real(search, number, batch)

        monkeypatch.setattr(kind, "process", process)

    def allocate(self, _, inputs, *output):
        assert [held for held in self.held if held() is not None] == [], "a failed step still holds its activations"
        activations = torch.zeros(1000)
        if inputs[0].shape[1] > self.limit:
            self.held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no memory")


@pytest.mark.parametrize(
    ("kind", "kept", "recomputed", "fits"),
    [
        (FeedbackSearch, 8, TOKENS, ADDED),
        (DriftSearch, 8, TOKENS, ADDED),
        (DriftSearch, 8, 40, "a sample fits with --seq-len 32 --checkpoint-activations on"),
        (DriftSearch, 8, 8, "shorter samples do not fit either, so use --mode frozen or a device with more memory"),
        (FrozenSearch, 20, None, "a sample fits with --seq-len 16"),
        (FrozenSearch, 8, None, "shorter samples do not fit either, so use a device with more memory"),
    ],
)
def test_a_sample_that_runs_out_of_memory_says_what_would_fit(tmp_path, monkeypatch, kind, kept, recomputed, fits):
    folder, mode = save_llama(tmp_path / "model"), kind.__name__.removesuffix("Search").lower()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with monkeypatch.context() as patch:
        Small(patch, loaded, kind, kept, recomputed)
        with pytest.raises(ConfigError) as caught:
            searched(folder, tmp_path / "cut", mode, loaded)
    assert str(caught.value) == (
        "the cpu device ran out of memory (no memory) in sample 3 of 4, of 64 tokens; "
        f"the state after sample 2 is kept; {fits}"
    )
    searched(folder, tmp_path / "cut", mode)
    searched(folder, tmp_path / "whole", mode)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

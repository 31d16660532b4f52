"""Searches on a model that overflows in some samples, as the tests of numbers that are not finite run them."""

from _checkpoints import EVIL
from _modes import SAMPLES, batches
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from unipruning_core.data.calibration import Calibration, Origin
from unipruning_core.search.choice import settings_of
from unipruning_core.search.loop import SearchTask, search
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

MODES = ["feedback", "drift", "coupled", "frozen"]


def data(bad=(), count=SAMPLES, origins=True):
    """Samples without EVIL, except at some."""
    drawn = batches(count, vocabulary=EVIL)
    for sample in bad:
        drawn[sample][:] = EVIL
    where = [Origin((10 + sample,), f"words of {sample}") for sample in range(count)] if origins else []
    return Calibration(drawn, 16 * count, f"fingerprint of {bad}", 0, where)


def run(folder, out, calibration, skip=False, save_every=1e9, progress=None, **settings):
    dtype = next(iter(load_file(folder / "model.safetensors").values())).dtype
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    chosen = settings_of(settings.pop("mode", None), settings)
    task = SearchTask(Checkpoint.open(folder), calibration, chosen, "tiny", {}, skip_nonfinite=skip)
    return search(task, model, CpuBackend(), out, save_every=save_every, progress=progress)


def poisoned(search, position, at):
    """Make one layer's gradient infinite in one sample."""
    calls = []

    def hook(gradient):
        calls.append(1)
        return gradient * float("inf") if len(calls) == at + 1 else gradient

    search.layers[position].parameter.register_hook(hook)
    return search.layers[position].name

"""One mode's cost: what ``search_cost.py`` measures in each of its processes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from unipruning_core.progress import Progress

MIB, GIB = 2**20, 2**30
SETTLING = 4  # samples before the first that is timed: the ramp's end, and a recording where there is one
KERNELS = 8  # listed by time


class Device:
    """Clock and memory of the device a backend works on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.module = None if kind == "cpu" else torch.get_device_module(kind)
        self.before = memory("VmRSS")

    @property
    def name(self) -> str:
        return "cpu" if self.module is None else str(self.module.get_device_name())

    def settle(self) -> None:
        gc.collect()
        if self.module is None:
            ctypes.CDLL(None).malloc_trim(0)
        else:
            self.module.synchronize()
            self.module.empty_cache()
            self.module.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the most bytes held at once, since ``settle`` on an accelerator, since the start on a CPU."""
        return memory("VmHWM") - self.before if self.module is None else int(self.module.max_memory_allocated())

    def reserved(self) -> int | None:
        """Return the most bytes that an accelerator had set aside since ``settle``: those of a recording stay so."""
        return None if self.module is None else int(self.module.max_memory_reserved())

    def timed(self, work: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.module is not None:
            self.module.synchronize()


class Notes(Progress):
    """Keeps what a search says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the mode in ``options.child``."""
    from unipruning_core.registry import Catalogue
    from unipruning_core.search.compilation import compiled_blocks
    from unipruning_core.search.modes import MODES

    mode, metric, *how = options.child.split("/")
    backend = Catalogue().select(options.backend)
    device = Device(backend.device_type)
    model, layers = loaded(options, backend)
    count = SETTLING + options.samples
    ids = tokens(model, count + 2, options.seq_len, backend.device_type)
    ramp = {"ramp_fraction": 0.05} if mode == "feedback" else {}
    search = MODES[mode](metric=metric, **ramp).start(model, layers, backend, count + 2)
    if "plain" in how and hasattr(search, "recorder"):
        search.recorder.possible = False
    said, compilation = Notes(), ExitStack()
    if "compiled" in how:
        compilation.enter_context(compiled_blocks(search, ids, said))
    weights = sum(layer.weight.numel() for layer in layers)

    device.settle()
    for sample in range(SETTLING):
        search.step(sample, ids[sample])
    peak, reserved = device.peak(), device.reserved()
    held = {tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), *search.tensors().values()]}
    sizes = {"counted": sum(held.values()) / weights, "peak": peak / GIB, "reserved": reserved and reserved / GIB}
    if device.kind == "cpu":
        times, bare_times, bare_peak = in_turns(
            lambda sample: device.timed(lambda: search.step(sample, ids[sample])), range(SETTLING, count), options
        )
    else:
        times = [device.timed(lambda s=s: search.step(s, ids[s])) for s in range(SETTLING, count)]  # type: ignore[misc]
    counts = counted(search, model, ids[count], count, mode, backend, len(layers))
    kernels = (
        profiled(lambda: search.step(count + 1, ids[count + 1])) if options.profile and device.kind == "cuda" else []
    )
    notes = [*said.notes, *search.notes]
    compilation.close()
    recorded = hasattr(search, "recorder") and search.recorder.recorded
    end = device.timed(lambda: [None for _ in search.outcomes()])
    if device.kind != "cpu":  # after the search, in the memory that it leaves
        del search
        device.settle()
        bare = bare_work(model, layers, mode, device)
        bare_times = [device.timed(lambda s=s: bare(ids[s])) for s in range(count)][SETTLING:]  # type: ignore[misc]
        bare_peak = device.peak()
    seconds, bare_seconds = statistics.median(times), statistics.median(bare_times)
    return {
        "mode": options.child,
        "model": Path(options.model).name,
        "device": device.name,
        "versions": {"torch": torch.__version__},
        "dtype": str(layers[0].weight.dtype).removeprefix("torch."),
        "tokens": options.seq_len,
        "matrices": len(layers),
        "weights": weights,
        "ratio": seconds / bare_seconds,
        "seconds": seconds,
        "bare_seconds": bare_seconds,
        "end_seconds": end,
        "peak_ratio": peak / bare_peak if bare_peak else None,
        "recorded": str(recorded).lower(),
        "notes": notes,
        "kernels": kernels,
        "threads": torch.get_num_threads(),
        **sizes,
        **counts,
    }


def tokens(model: Any, samples: int, length: int, device: str) -> list[torch.Tensor]:
    """Return random samples, (1, length) int64 each, the same in every process."""
    vocabulary = model.config.vocab_size
    return [
        torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(sample)).to(device)
        for sample in range(samples)
    ]


def in_turns(
    search: Callable[[int], float], samples: range, options: argparse.Namespace
) -> tuple[list[float], list[float], int]:
    """Return the seconds of each sample of the search and of the bare work, which take turns, and the latter's peak.

    Each has a process of its own: in one, they would disturb each other's memory.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=serve_bare, args=(options, there), daemon=True)
    other.start()
    there.close()
    found = []
    for sample in samples:
        here.send(sample)
        found.append((here.recv(), search(sample)))
    here.send(None)
    peak = here.recv()
    other.join()
    bare_times, times = zip(*found, strict=True)
    return list(times), list(bare_times), peak


def serve_bare(options: argparse.Namespace, asked: Any) -> None:
    """Do the bare work for each sample that is asked for, and say how long it took; at the end, the peak in bytes."""
    from unipruning_core.registry import Catalogue

    backend = Catalogue().select(options.backend)
    device = Device(backend.device_type)
    model, layers = loaded(options, backend)
    bare = bare_work(model, layers, options.child.split("/")[0], device)
    ids = tokens(model, SETTLING + options.samples, options.seq_len, backend.device_type)
    for batch in ids[:SETTLING]:
        bare(batch)
    while (sample := asked.recv()) is not None:
        asked.send(device.timed(lambda sample=sample: bare(ids[sample])))  # type: ignore[misc]
    asked.send(device.peak())


def loaded(options: argparse.Namespace, backend: Any) -> tuple[Any, Any]:
    """Return the model on the backend's device, and its layers."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from unipruning_core.models.loading import build_model
    from unipruning_core.models.outline import header_of, load_config
    from unipruning_core.models.targets import find_targets
    from unipruning_core.storage.checkpoint import Checkpoint

    logging.disable_progress_bar()
    dtype = backend.loading_dtype(torch.bfloat16)
    if Path(options.model).is_dir():
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(backend.device_type)
        return model.eval(), find_targets(model, Checkpoint.open(options.model))[0]
    config = load_config(options.model)
    config.num_hidden_layers = options.layers or config.num_hidden_layers
    torch.manual_seed(0)
    with torch.device(backend.device_type):
        model = build_model(options.model, config, trust_remote_code=False, dtype=dtype).eval()
    return model, find_targets(model, Checkpoint(Path(options.model), (), header_of(model)))[0]


def bare_work(model: Any, layers: Any, mode: str, device: Device) -> Callable[[torch.Tensor], None]:
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    if mode == "frozen":

        def forward(batch: torch.Tensor) -> None:
            with torch.no_grad():
                model(input_ids=batch, use_cache=False)

        return forward
    parameters = [layer.parameter.requires_grad_() for layer in layers]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=device.module is not None)

    def train(batch: torch.Tensor) -> None:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def counted(
    search: Any, model: Any, batch: torch.Tensor, sample: int, mode: str, backend: Any, matrices: int
) -> dict[str, Any]:
    """Return launches and operators per matrix beside the model's own, and host reads, of a sample as it is called."""
    from unipruning_core.testing.tally import Tally

    own = Tally()
    with own, torch.set_grad_enabled(mode != "frozen"):
        outcome = model(input_ids=batch, use_cache=False, **({"labels": batch} if mode != "frozen" else {}))
        if mode != "frozen":
            outcome.loss.backward()
    for parameter in model.parameters():
        parameter.grad = None
    launcher = getattr(backend, "launcher", None)
    before = sum(launcher.launches.values()) if launcher else 0
    with Tally() as tally:
        search.step(sample, batch)
    beside = (tally.operators - own.operators).total()
    return {
        "launches": (sum(launcher.launches.values()) - before) / matrices if launcher else None,
        "operators": beside / matrices,
        "host_reads": tally.host_reads - own.host_reads,
    }


def profiled(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Return the kernels that took most time, with their share of it."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    rows = [(row.key, row.self_device_time_total) for row in profile.key_averages() if row.self_device_time_total]
    total = sum(spent for _, spent in rows)
    return [(name[:90], spent / total) for name, spent in sorted(rows, key=lambda row: -row[1])[:KERNELS]]


def memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(match[1]) * 1024

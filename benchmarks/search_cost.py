"""Cost of a search relative to the bare work: time as a ratio within one run, and memory held per target weight.

    python benchmarks/search_cost.py [--model DIR] [--data FILE] [--samples 6] [--seq-len 512] [--json]

Each mode runs in a process of its own, so that peaks do not mix.  Sample by sample, it times the bare work and the
search in turn on the same tokens.  The bare work is ``model(ids)`` for ``frozen``; for the other modes it is forward,
backward and ``torch.optim.AdamW`` on the target weights.  Memory is what the process holds between two samples, less
what it held before the model was loaded, and the peak, which includes activations.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
import time
from pathlib import Path

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model to search (default: the demonstration's)")
    parser.add_argument("--data", help="calibration text (default: the demonstration's)")
    parser.add_argument("--samples", type=int, default=6, help="calibration samples (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens per sample (default: %(default)s)")
    parser.add_argument(
        "--modes",
        default="feedback/wanda,frozen/wanda,frozen/stochria,drift/stochria,coupled/stochria",
        help="comma-separated MODE/METRIC pairs (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    if options.model is None or options.data is None:
        from unipruning_core.tools.demo.assets import demo_model, demo_texts

        options.model, options.data = options.model or str(demo_model()), options.data or str(demo_texts()[0])
    passed = ["--model", options.model, "--data", options.data]
    passed += ["--samples", str(options.samples), "--seq-len", str(options.seq_len)]
    rows = []
    for mode in options.modes.split(","):
        child = subprocess.run([sys.executable, __file__, *passed, "--child", mode], stdout=subprocess.PIPE, check=True)
        rows.append(json.loads(child.stdout))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'mode':18} {'dtype':9} {'search / bare':>14} {'B/weight: counted':>18} {'held':>8} {'peak':>8}")
    for row in rows:
        sizes = f"{row['counted']:18.2f} {row['held']:8.2f} {row['peak']:8.2f}"
        print(f"{row['mode']:18} {row['dtype']:9} {row['ratio']:14.3f} {sizes}")


def measure(options: argparse.Namespace) -> dict[str, object]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from unipruning_core.data.calibration import calibration_batches
    from unipruning_core.data.text import load_text
    from unipruning_core.models.targets import find_targets
    from unipruning_core.registry import Catalogue
    from unipruning_core.search.modes import MODES
    from unipruning_core.storage.checkpoint import Checkpoint

    logging.disable_progress_bar()
    mode, metric = options.child.split("/")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    batches = calibration_batches(
        load_text(options.data), tokenizer, samples=options.samples, seq_len=options.seq_len, seed=0
    ).batches
    backend = Catalogue().select("cpu")
    before = memory("VmRSS")
    dtype = backend.loading_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    layers, _ = find_targets(model, Checkpoint.open(options.model))
    search = MODES[mode](metric=metric).start(model, layers, backend, len(batches))
    weights = sum(layer.weight.numel() for layer in layers)

    search.step(0, batches[0])
    peak = memory("VmHWM") - before
    ctypes.CDLL(None).malloc_trim(0)  # freed activations that the allocator keeps are not held by the search
    held = memory("VmRSS") - before
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    counted = sum(tensor.nbytes for tensor in search.tensors().values() if tensor.data_ptr() not in pointers)
    counted += sum(parameter.nbytes for parameter in model.parameters())
    if mode == "drift":  # the gradient, which is freed between samples
        counted += sum(layer.parameter.nbytes for layer in layers)

    bare = bare_work(AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype), mode)
    bare(batches[0])
    bare_seconds = search_seconds = 0.0
    for sample, batch in enumerate(batches[1:], start=1):
        bare_seconds += timed(lambda batch=batch: bare(batch))
        search_seconds += timed(lambda sample=sample, batch=batch: search.step(sample, batch))
    # the work done once at the end, in proportion to the samples that were timed
    search_seconds += timed(lambda: [None for _ in search.outcomes()]) * (len(batches) - 1) / len(batches)
    return {
        "mode": options.child,
        "dtype": str(dtype).removeprefix("torch."),
        "ratio": search_seconds / bare_seconds,
        "bare_seconds": bare_seconds,
        "search_seconds": search_seconds,
        "counted": counted / weights,
        "held": held / weights,
        "peak": peak / weights,
        "weights": weights,
        "threads": torch.get_num_threads(),
    }


def bare_work(model, mode: str):  # type: ignore[no-untyped-def]
    import torch

    from unipruning_core.models.targets import find_targets
    from unipruning_core.storage.checkpoint import Checkpoint

    model.eval().requires_grad_(False)
    if mode == "frozen":

        def forward(batch: torch.Tensor) -> None:
            with torch.no_grad():
                model(input_ids=batch, use_cache=False)

        return forward
    layers, _ = find_targets(model, Checkpoint.open(model.name_or_path))
    parameters = [layer.parameter.requires_grad_() for layer in layers]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)

    def train(batch: torch.Tensor) -> None:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def timed(work) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()

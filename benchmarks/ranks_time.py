"""How the time of a step scales from one rank to two, beside FSDP's own training step; and how it grows with the model.

    python benchmarks/ranks_time.py scaling     # seconds a step of the search, and of a bare step, on 1 and 2 ranks
    python benchmarks/ranks_time.py growth      # one process: seconds a sample and peak memory by parameters
    python benchmarks/ranks_time.py growth --plot docs/growth.svg               # and draw them (needs matplotlib)

A rank has the same samples whatever their number, and one thread.  The bare step is a forward pass, a backward pass and
AdamW over the same matrices, under ``fully_shard`` with the same units where there are two ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _ranks_memory import MIB, TEXT, memory, save_model

SEQ_LEN, STEPS, WARM = 256, 8, 2
GROWTH = (4, 16, 36, 72, 148)  # decoder blocks, 3.2 M weights each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scaling", "growth", "child"))
    parser.add_argument("task", nargs="?")
    parser.add_argument("--plot", type=Path, help="draw the growth to this file")
    options = parser.parse_args()
    if options.what == "child":
        _child(json.loads(options.task))
    elif options.what == "scaling":
        _scaling()
    else:
        _growth(options.plot)


def _scaling() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"), "float32", 17)
        found: dict[str, list[float]] = {"search": [], "bare": []}
        for kind, seconds in found.items():
            for ranks in (1, 2):
                seconds.append(_measured(folder, kind, ranks)["seconds"])
                print(f"{kind:8} {ranks} ranks  {seconds[-1]:.3f} s a step", flush=True)
    efficiency = {kind: one / two for kind, (one, two) in found.items()}
    print(f"efficiency: search {efficiency['search']:.3f}, bare step {efficiency['bare']:.3f}")
    print(f"of the bare step's: {efficiency['search'] / efficiency['bare']:.3f}")


def _growth(plot: Path | None) -> None:
    rows = []
    print(f"{'parameters':>12} {'s a sample':>12} {'peak MiB':>10} {'s per M':>10} {'MiB per M':>10}")
    for blocks in GROWTH:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder, "model"), "bfloat16", blocks)
            found = _measured(folder, "search", 1)
        millions = found["parameters"] / 1e6
        seconds, peak = found["seconds"], found["peak"]
        cells = f"{seconds:12.2f} {peak:10.0f} {seconds / millions:10.4f} {peak / millions:10.2f}"
        print(f"{millions:10.1f} M {cells}", flush=True)
        rows.append((millions, seconds, peak))
    if plot:
        draw(rows, plot)


def draw(rows: list[tuple[float, float, float]], path: Path) -> None:
    """Draw seconds and MiB by millions of parameters, each beside a straight line through the origin and the last."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    largest = rows[-1]
    for column, title in ((1, "seconds a sample"), (2, "peak, MiB")):
        axes = figure.add_subplot(1, 2, column)
        axes.plot([0, largest[0]], [0, largest[column]], color="grey", linewidth=0.8, linestyle=":")
        axes.plot([row[0] for row in rows], [row[column] for row in rows], marker="o", markersize=4)
        axes.set(xlabel="million parameters", ylabel=title, xlim=0, ylim=0)
    figure.savefig(path, metadata={"Date": None})


def _measured(folder: str, kind: str, ranks: int) -> dict[str, Any]:
    task = json.dumps({"folder": folder, "kind": kind, "ranks": ranks})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "29571"]
    subprocess.run([*command, __file__, "child", task], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    found: dict[str, Any] = json.loads(Path(folder, "found.json").read_text())
    return found


def _child(task: dict[str, Any]) -> None:
    found = (_search if task["kind"] == "search" else _bare)(Path(task["folder"]), task["ranks"])
    if found:
        Path(task["folder"], "found.json").write_text(json.dumps(found))


def _search(folder: Path, ranks: int) -> dict[str, Any] | None:
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.jobs.on_disk import search_on_disk
    from unipruning_core.jobs.opened import OnDisk
    from unipruning_core.models.loading import ModelChoice
    from unipruning_core.progress import Progress, Task
    from unipruning_core.search.modes.feedback import FeedbackSettings

    ends: list[float] = []

    class Timed(Progress):
        @contextmanager
        def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
            yield Ending() if label == "feedback" else Task()

    class Ending(Task):
        def advance(self, amount: int = 1, **shown: object) -> None:
            ends.append(time.monotonic())

    model = OnDisk(ModelChoice(str(folder / "model")), "cpu", Timed())
    before = memory("VmHWM")
    data = DataChoice(TextChoice([TEXT]), samples=STEPS * ranks, seq_len=SEQ_LEN)
    search_on_disk(model, data, FeedbackSettings(batch_size=ranks, ramp_fraction=0.1), folder / f"run-{ranks}")
    if not model.world.leads:
        return None
    taken = [end - start for start, end in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    peak = (memory("VmHWM") - before) / MIB
    return {"seconds": statistics.median(taken), "peak": peak, "parameters": model.size.weights}


def _bare(folder: Path, ranks: int) -> dict[str, Any] | None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model").requires_grad_(False)
    for name, parameter in model.model.layers.named_parameters():
        parameter.requires_grad_(name.endswith("proj.weight"))
    if ranks > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (ranks,))
        for unit in (*model.model.layers, model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    ids = torch.arange(SEQ_LEN)[None]
    ends = [time.monotonic()]
    for _ in range(STEPS):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.monotonic())
    taken = [end - start for start, end in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    return {"seconds": statistics.median(taken)} if ranks == 1 or dist.get_rank() == 0 else None


if __name__ == "__main__":
    main()

"""Memory and traffic of each rank of a search over ranks, beside what ``unipruning plan`` predicts and a bare step.

    python benchmarks/ranks_memory.py                               # a random Llama on gloo ranks of this machine
    python benchmarks/ranks_memory.py --ranks 1,2 --modes feedback --dtypes bfloat16 --json ranks.json

Every search runs in processes of its own, started by torchrun.  Each rank first searches a model of one block, so that
libraries are loaded and the ranks have met, and then counts from there: what is held after a step, the peak of resident
memory, and the bytes that it sends.  With ``--offload disk`` it is the memory besides files that is counted.  A bare
step is FSDP's own: the same model and units, one forward and one backward pass, no search.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _ranks_memory import HIDDEN, MB, MIB, measure, predicted, save_model

from unipruning_core.tools.plan.layout import Layout

# so that glibc gives freed memory back, and the peak is that of the tensors
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "UNIPRUNING_CPU_MALLOC": "system"}
COLUMNS = (
    ("held MiB", "held", ".1f"),
    ("peak MiB", "peak", ".1f"),
    ("plan MiB", "planned", ".1f"),
    ("peak / plan", "ratio", ".3f"),
    ("sent MB", "sent", ".1f"),
    ("plan MB", "planned_sent", ".1f"),
    ("sent / bare", "sent_ratio", ".3f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4", help="comma-separated numbers of ranks (default: %(default)s)")
    parser.add_argument("--modes", default="feedback,frozen", help="comma-separated modes (default: %(default)s)")
    parser.add_argument("--dtypes", default="bfloat16,float32", help="comma-separated dtypes (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=17, help="decoder blocks of the model (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="its width (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens per sample (default: %(default)s)")
    parser.add_argument("--checkpoint-activations", choices=("on", "off"), default="off")
    parser.add_argument("--offload", choices=("none", "disk"), default="none")
    parser.add_argument("--verbose", action="store_true", help="show what the ranks print")
    parser.add_argument("--json", type=Path, help="write all figures to a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(Path(options.child))
        return
    rows = []
    print("  ".join([f"{'search':24}", *(f"{title:>11}" for title, _, _ in COLUMNS)]), flush=True)
    for dtype in options.dtypes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for name, blocks in (("small", 1), ("model", options.blocks)):
                save_model(Path(folder, name), dtype, blocks, options.hidden)
            for mode in options.modes.split(","):
                for ranks in map(int, options.ranks.split(",")):
                    row = _run(Path(folder), ranks, mode, dtype, options)
                    rows.append(row)
                    cells = (f"{'-' if row[key] is None else format(row[key], form):>11}" for _, key, form in COLUMNS)
                    print("  ".join([f"{mode} {dtype} {ranks}".ljust(24), *cells]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"schema": "unipruning-ranks-memory-1", "rows": rows}, indent=1) + "\n")


def _run(folder: Path, ranks: int, mode: str, dtype: str, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures of the rank with the largest peak."""
    work = folder / f"{mode}-{ranks}"
    work.mkdir()
    task = {"mode": mode, "dtype": dtype, "ranks": ranks, "seq_len": options.seq_len}
    task |= {"checkpoint_activations": options.checkpoint_activations, "offload": options.offload}
    (work / "task.json").write_text(json.dumps(task))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "29561"]
    subprocess.run(
        [*command, __file__, "--child", str(work)],
        env=os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if not options.verbose else None,
    )
    found = [json.loads((work / f"{rank}.json").read_text()) for rank in range(ranks)]
    row: dict[str, object] = max(found, key=lambda row: row["peak"])
    recomputes = mode != "frozen" and options.checkpoint_activations == "on"
    layout = Layout(ranks, offload=options.offload, recomputes=recomputes)
    plan = predicted(folder / "model", mode, options.seq_len, layout)
    row |= {"planned": plan.peak / MIB, "ratio": row["peak"] * MIB / plan.peak, "planned_sent": plan.sent / MB}
    return row | {"phase": plan.phase, "parts": plan.parts}


if __name__ == "__main__":
    main()

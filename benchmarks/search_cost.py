"""Cost of a search beside the bare work on any device: time, memory, launches, operators and host reads.

    python benchmarks/search_cost.py                                            # the demo's model on the CPU
    python benchmarks/search_cost.py --backend cuda --model llama-2-7b --json cost.json

MODEL is a folder, or a config that the program knows: then the weights are random and nothing is downloaded.  The bare
work is ``model(ids)`` for ``frozen``; for the other modes it is forward, backward and ``torch.optim.AdamW``, fused on
an accelerator, on the target weights.  Each mode runs in a process of its own, so that peaks do not mix; ``/plain``
after it runs a sample step by step where it could be recorded, and ``/compiled`` the decoder blocks compiled.  Samples
are timed at the end of the ramp.  On a CPU, whose other work comes and goes, the bare work and the search, each in a
process of its own, take turns.  What is measured is written to ``--json`` after each mode; one that fails is named with
the reason, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _search_cost import measure

from unipruning_core.errors import first_line

MODES = "feedback/wanda,feedback/wanda/plain,drift/stochria,frozen/wanda,frozen/stochria"
COLUMNS = (
    ("search / bare", "ratio", ".3f"),
    ("seconds", "seconds", ".3f"),
    ("bare", "bare_seconds", ".3f"),
    ("peak GiB", "peak", ".2f"),
    ("peak / bare", "peak_ratio", ".2f"),
    ("reserved", "reserved", ".2f"),
    ("B/weight", "counted", ".2f"),
    ("launches", "launches", ".1f"),
    ("operators", "operators", ".1f"),
    ("host reads", "host_reads", "d"),
    ("recorded", "recorded", ""),
)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu", help="the backend to run (default: %(default)s)")
    parser.add_argument("--model", help="a folder or a built-in config, such as llama-2-7b (default: the demo's model)")
    parser.add_argument("--layers", type=int, help="decoder blocks of a built-in config (default: all)")
    parser.add_argument("--samples", type=int, default=6, help="samples to time (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens per sample (default: %(default)s)")
    parser.add_argument(
        "--modes", default=MODES, help="comma-separated MODE/METRIC[/plain][/compiled] (default: %(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="list the kernels that took most time, on a GPU")
    parser.add_argument("--json", type=Path, help="write all figures to a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    options = parser().parse_args()
    if options.child:
        return child(options)
    if options.model is None:
        from unipruning_core.tools.demo.assets import demo_model

        options.model = str(demo_model())
    passed = ["--backend", options.backend, "--model", options.model, "--samples", str(options.samples)]
    passed += ["--seq-len", str(options.seq_len)]
    passed += ["--layers", str(options.layers)] * (options.layers is not None) + ["--profile"] * options.profile
    rows: list[dict[str, Any]] = []
    print("  ".join([f"{'mode':18}", *(f"{title:>13}" for title, _, _ in COLUMNS)]), flush=True)
    for mode in options.modes.split(","):
        rows.append(row_of([*passed, "--child", mode], mode))
        show(rows[-1])
        if options.json:
            document = {"schema": "unipruning-search-cost-3", "rows": rows}
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    measured = [row for row in rows if "failed" not in row]
    if measured:
        first = measured[0]
        print(f"\n{first['model']} on {first['device']}, {first['dtype']}, the median of {options.samples} samples of")
        print(f"{options.seq_len} tokens; launches and operators per matrix, beside the model's own.")
    return 0 if len(measured) == len(rows) else 1


def row_of(arguments: list[str], mode: str) -> dict[str, Any]:
    """Measure a mode in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    try:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"mode": mode, "failed": f"its process ended with status {done.returncode}"}
    return row


def child(options: argparse.Namespace) -> int:
    """Print the figures of one mode, or why there are none, as the last line."""
    try:
        print(json.dumps(measure(options)))
    # what a device raises, such as for a lack of memory, differs by device and version
    except RuntimeError as error:
        print(json.dumps({"mode": options.child, "failed": f"{type(error).__name__}: {first_line(error)}"}))
        return 1
    return 0


def show(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['mode']:18}  {row['failed']}", flush=True)
        return
    cells = (f"{'-' if row[key] is None else format(row[key], form):>13}" for _, key, form in COLUMNS)
    print("  ".join([f"{row['mode']:18}", *cells]), flush=True)
    for name, share in row["kernels"]:
        print(f"    {share:6.1%}  {name}")
    for note in row["notes"]:
        print(f"    {note}")


if __name__ == "__main__":
    sys.exit(main())

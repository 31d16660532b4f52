"""What bench, doctor and plan take; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from unipruning_core.cli.options import SPARSITY_HELP, Command, Handler, add_settings

PLAN_DETAILS = """\
Reads a config and no weights, and needs no device: the model runs once on tensors that have shapes and no values, which
gives its operations and the most activations alive at once.  The predicted time is the roofline of what you say the
machine can do; without --bandwidth and --flops there is none.

examples
  unipruning plan llama-2-7b --sparsity 2:4
  unipruning plan ./model --backend cpu --mode frozen --seq-len 4096 --bandwidth 100 --flops 1.5
"""
BENCH_DETAILS = """\
Every result is compared with the definition on the same inputs before its time is taken; a wrong one has no time, and
the command exits with 1.  Beside the time stands what a copy of the same bytes takes in the same run.

examples
  unipruning bench --baseline released
  unipruning bench mirror_step nm_mask --backend all --model llama-2-7b --json new.json --compare old.json
"""
DOCTOR_DETAILS = """\
Looks at python, torch, accelerators, backends, compiler, memory, disk and model cache, and holds every backend that can
run here to the conformance vectors.  Exits with 1 where something that should work does not.  The report names no host,
no user and no path, so that it can be attached anywhere.

example
  unipruning doctor --json doctor.json
"""


def add_bench(command: Command, run: Handler) -> None:
    parser = command(
        "bench", run, "measure the operations of a backend, each checked before it is timed", BENCH_DETAILS
    )
    parser.add_argument("operations", nargs="*", metavar="OP", help="which, see --list (default: all)")
    parser.add_argument("--list", action="store_true", help="say what can be measured, and its least memory traffic")
    parser.add_argument(
        "--static", action="store_true", help="print what the kernels cost as far as no device is needed"
    )
    parser.add_argument("--backend", default="auto", help="auto, all, or names with commas (default: %(default)s)")
    parser.add_argument(
        "--baseline",
        help="also time another way: eager (the definition in plain torch), released (the eager formulation of the "
        "released code), or compile (the definition under torch.compile)",
    )
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument(
        "--model", help="the layers of a model: a built-in name, a folder or file with a config, a hub id"
    )
    shapes.add_argument("--shape", action="append", metavar="RxC", help="of the matrix (default: 4096x4096)")
    parser.add_argument(
        "--dtype", default="bfloat16", help="of weights and activations, names with commas (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=7, help="timed samples of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write lines and environment here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the lines here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the bandwidth here (needs matplotlib)")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="say what changed since an earlier --json")


def add_doctor(command: Command, run: Handler) -> None:
    parser = command("doctor", run, "say what this machine can do, and whether it does it right", DOCTOR_DETAILS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")


def add_plan(command: Command, run: Handler) -> None:
    parser = command("plan", run, "tell what a search will hold, move and take, from a config alone", PLAN_DETAILS)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder or file with a config, a hub id, or a built-in name; the error for a wrong one lists them",
    )
    parser.add_argument("--dtype", default="auto", help="of the loaded weights: auto, float32, bfloat16 or float16")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    parser.add_argument("--backend", help="say which operations this one leaves to the reference")
    parser.add_argument("--sparsity", action="append", default=[], metavar="S", help=SPARSITY_HELP)
    parser.add_argument("--samples", type=int, default=128, help="sequences (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, help="tokens a sequence (default: 2048, or all the model has)")
    add_settings(parser)
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="of the device's memory")
    parser.add_argument("--flops", type=float, metavar="TFLOP/S", help="of matrix products in the weights' dtype")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan here")

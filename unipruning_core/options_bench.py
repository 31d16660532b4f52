"""What bench, doctor and plan take; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from unipruning_core.options import SPARSITY_HELP, Command, Handler

PLAN_DETAILS = """\
Reads a config and no weights, and needs no device: the model runs once on tensors that have shapes and no values, which
gives its operations and the most activations alive at once.  The predicted time is the roofline of what you say the
machine can do; without --bandwidth and --flops there is none.

examples
  unipruning plan llama-2-7b --sparsity 2:4
  unipruning plan ./model --backend cpu --mode frozen --seq-len 4096 --bandwidth 100 --flops 1.5
"""


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
    parser.add_argument("--mode", help="the search mode (default: drift)")
    parser.add_argument("--metric", help="the local saliency (default: stochria)")
    parser.add_argument("--max-grad-norm", type=float, help="drift: 0 holds no gradient (default: 1)")
    parser.add_argument("--prox-strength", type=float, help="drift: above 0 adds the proximal step (default: 0)")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="of the device's memory")
    parser.add_argument("--flops", type=float, metavar="TFLOP/S", help="of matrix products in the weights' dtype")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan here")

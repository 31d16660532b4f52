"""What the reference that changes weights takes; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from unipruning_core.cli.options import Command, Handler, add_backend, add_calibration, add_flag, add_model
from unipruning_core.compare.settings import SparseGptSettings
from unipruning_core.search.choice import flags

SPARSEGPT_DETAILS = """\
SparseGPT (arXiv 2301.00774) prunes layer by layer and changes the weights that stay, so that they make up for those
that go.  It is here to compare with: one run serves one sparsity, its masks hold for its own weights alone, and an
interrupted run begins anew.

example
  unipruning reference-sparsegpt MODEL --sparsity 60% --data calibration.jsonl --out DIR
"""


def add_sparsegpt(command: Command, run: Handler) -> None:
    parser = command("reference-sparsegpt", run, "prune with SparseGPT, which changes the weights", SPARSEGPT_DETAILS)
    add_model(parser)
    parser.add_argument("--sparsity", required=True, metavar="S", help="60%% of each matrix, or N:M such as 2:4")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    add_calibration(parser)
    for flag in flags({"sparsegpt": SparseGptSettings}):
        add_flag(parser, flag)
    parser.add_argument("--overwrite", action="store_true", help="replace an output that an earlier command wrote")
    add_backend(parser)

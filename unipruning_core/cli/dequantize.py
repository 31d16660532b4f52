"""The command that writes a quantised model as plain numbers: dequantize."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipruning_core.cli.arguments import Command, add_model_files, note_unused_dtype, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.startup import collector_at_rest

DETAILS = """\
Reads FP8 and int8 with scales, packed codes and sparse bitmasks of compressed-tensors, and MXFP4, one tensor at a time
and without a model.  A model in FP8 needs no such copy: it is pruned where it is stored.

example
  unipruning dequantize openai/gpt-oss-20b --out gpt-oss-bf16
  unipruning prune gpt-oss-bf16 --sparsity 2:4 --out pruned
"""


def add_commands(command: Command) -> None:
    parser = command("dequantize", _dequantize, "write a quantised model in bfloat16, to be pruned", DETAILS)
    add_model_files(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")


def _dequantize(options: argparse.Namespace) -> int:
    check_first(options, "model")
    note_unused_dtype(options)
    print(f"model in bfloat16: {write(options, options.out)}")
    return 0


def write(options: argparse.Namespace, out: Path) -> Path:
    """Write the quantised model that a command names in bfloat16."""
    with collector_at_rest(ours=True):
        from unipruning_core.jobs.dequantize import dequantize
        from unipruning_core.models.hub import resolve_model
        from unipruning_core.storage.checkpoint import Checkpoint

    folder = resolve_model(options.model, trust_remote_code=options.trust_remote_code, revision=options.revision)
    return dequantize(options.model, Checkpoint.open(folder), out, progress_from(options))


def model_of(options: argparse.Namespace) -> str:
    """Return the model to prune: as named, or written in bfloat16 by ``--dequantize``, now or by an earlier command.

    What was written is a local folder, which has no revision.
    """
    if options.dequantize is None:
        return str(options.model)
    if not options.dequantize.exists():
        write(options, options.dequantize)
    options.revision = None
    return str(options.dequantize)

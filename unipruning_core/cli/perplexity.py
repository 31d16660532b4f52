"""The command that measures a checkpoint: perplexity."""

from __future__ import annotations

import argparse
import json
import math

from unipruning_core.cli.arguments import (
    SEQ_LEN_HELP,
    Command,
    add_backend,
    add_loading,
    add_text,
    add_tokenizer,
    loading_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.models.hub import local_folder
from unipruning_core.startup import collector_at_rest

DETAILS = """\
The field's standard protocol: the text as one string, tokenised once, in windows that do not overlap; the exponential
of the mean negative log-likelihood over windows.  Figures compare only for the same text, tokenizer and --seq-len.
Several models are measured one after the other, which is faster than one command for each: a line a model.
Under torchrun every process loads the model and takes some of the windows; the figure is the same.

examples
  unipruning perplexity pruned/60-row --data wikitext2 --seq-len 2048
  unipruning perplexity MODEL pruned/50 pruned/60 pruned/2-4 --data wikitext2
"""


def add_commands(command: Command) -> None:
    parser = command("perplexity", _perplexity, "measure the perplexity of checkpoints on a text", DETAILS)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a folder with safetensors weights, or a hub id")
    add_loading(parser)
    add_text(parser, "wikitext2", split="test")
    add_tokenizer(parser)
    parser.add_argument("--seq-len", type=int, help=f"tokens per window ({SEQ_LEN_HELP})")
    parser.add_argument("--windows", type=int, help="number of windows, from the start (default: the whole text)")
    add_backend(parser)
    parser.set_defaults(over_ranks=True)
    parser.add_argument("--json", action="store_true", help="print JSON, a line a model, with the loss of each window")


def _perplexity(options: argparse.Namespace) -> int:
    check_first(options, "dtype", "backend", "models", "tokenizer", "data")
    from dataclasses import asdict

    with collector_at_rest(ours=True):
        from unipruning_core.jobs import results

    for model in options.models:
        result = results.perplexity(
            model,
            options.tokenizer,
            data=options.data,
            split=options.split,
            text_column=options.text_column,
            seq_len=options.seq_len,
            windows=options.windows,
            **loading_from(options) | {"revision": options.revision if local_folder(model) is None else None},
        )
        if options.json:
            # JSON has no infinity, which is what the exponential of a large loss is
            whole = result.perplexity if math.isfinite(result.perplexity) else None
            print(json.dumps({"model": model, **asdict(result), "perplexity": whole}, allow_nan=False))
        else:
            name = f"{model}: " if len(options.models) > 1 else ""
            print(
                f"{name}perplexity {result.perplexity:.3f}  ({result.tokens} tokens in {result.windows} windows of "
                f"{result.seq_len}; {result.source}, sha256 {result.data_sha256[:12]}; {result.dtype})"
            )
    return 0

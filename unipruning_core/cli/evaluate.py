"""The command that measures checkpoints on tasks and texts: eval."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipruning_core.cli.arguments import (
    SEQ_LEN_HELP,
    TEXT_HELP,
    Command,
    add_backend,
    add_loading,
    add_tokenizer,
    loading_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.data.sources import find_text
from unipruning_core.errors import ConfigError
from unipruning_core.startup import collector_at_rest

DETAILS = """\
Zero-shot tasks by lm-eval (pip install 'lm-eval>=0.4.13') and perplexity, of several checkpoints, in one table: each
figure with its standard error, and its difference to the first model, paired item by item, so that a difference far
smaller than either standard error can be told from chance.

Each model is loaded once.  Every task of every model is kept in FOLDER as soon as it is measured, with lm-eval's own
results.json and samples: the same command, even after it was killed, does only what is missing, and a command with more
models or tasks adds to it.  FOLDER/results.csv and results.json hold the table.

Offline, --include-path names a folder of lm-eval task files whose data is local; docs/evaluating.md shows one.

examples
  unipruning eval MODEL pruned/60 pruned/2-4 --tasks arc_easy,hellaswag,piqa --out FOLDER
  unipruning eval MODEL pruned/60 --tasks arc_easy --limit 200 --include-path my-tasks --out FOLDER
  unipruning eval MODEL pruned/60 --data wikitext2 --data c4 --seq-len 2048 --windows 64 --out FOLDER
"""


def add_commands(command: Command) -> None:
    parser = command("eval", _eval, "measure checkpoints on zero-shot tasks and texts, against the first", DETAILS)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a folder with safetensors weights, or a hub id; the dense one first"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for the figures and lm-eval's files"
    )
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="T[,T...]",
        help="tasks or groups of lm-eval, or of --include-path; may be repeated",
    )
    tasks.add_argument(
        "--include-path", type=Path, metavar="FOLDER", help="task files of yours; they come before lm-eval's"
    )
    tasks.add_argument("--limit", type=int, metavar="N", help="items of each task, from its start (default: all)")
    tasks.add_argument(
        "--num-fewshot", type=int, metavar="N", help="examples before each question (default: the task's own number)"
    )
    tasks.add_argument("--apply-chat-template", action="store_true", help="put the questions as a chat")
    tasks.add_argument("--batch-size", type=int, default=8, help="items at a time (default: %(default)s)")
    texts = parser.add_argument_group("perplexity")
    without_default = TEXT_HELP.partition(" (default")[0]
    texts.add_argument("--data", action="append", default=[], help=f"{without_default}; may be repeated")
    texts.add_argument("--split", help="split of a data set (default: test)")
    texts.add_argument("--text-column", help="column that holds the text (default: text, or the only one of strings)")
    texts.add_argument("--seq-len", type=int, help=f"tokens per window ({SEQ_LEN_HELP})")
    texts.add_argument("--windows", type=int, help="number of windows, from the start (default: the whole text)")
    add_tokenizer(parser)
    add_loading(parser)
    add_backend(parser)


def _eval(options: argparse.Namespace) -> int:
    tasks = [name for word in options.tasks for name in word.split(",") if name]
    if options.include_path is not None and not options.include_path.is_dir():
        raise ConfigError(f"--include-path {str(options.include_path)!r} is not a folder; pass one with task files")
    check_first(options, "dtype", "backend", "models", "tokenizer")
    for text in options.data:
        find_text(text)
    with collector_at_rest(ours=True):
        from unipruning_core.evaluation.job import evaluate

    names = ("include_path", "data", "out", "limit", "num_fewshot", "apply_chat_template", "batch_size")
    texts = ("seq_len", "windows", "split", "text_column", "tokenizer")
    print(
        evaluate(
            options.models,
            tasks=tasks,
            **{name: getattr(options, name) for name in (*names, *texts)},
            **loading_from(options),
        )
    )
    return 0

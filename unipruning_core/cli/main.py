"""The command line: the only place that prints or exits.  Torch is imported only by the commands that compute."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from unipruning_core.cli import allocate as cli_budget
from unipruning_core.cli import bench as cli_bench
from unipruning_core.cli import compare as cli_compare
from unipruning_core.cli.options import (
    add_demo,
    add_perplexity,
    add_project,
    add_prune,
    add_search,
    data_choice,
    model_choice,
    search_settings,
    sparsities,
)
from unipruning_core.cli.progress import TerminalProgress
from unipruning_core.errors import UnipruningError
from unipruning_core.extensions import REMEDY, first_line, load_extensions

USAGE_ERROR = 2
INTERRUPTED = 130
AUTOLOAD_FAILED = "Failed to load the backend extension"
DESCRIPTION = """\
Prune a large language model: one search over a little text yields a saliency for every weight, and masks of any
sparsity, unstructured or N:M, are read off it afterwards.  The original weights are never changed.

  unipruning prune MODEL --sparsity 60% --out DIR       search, then project: the one-liner
  unipruning search MODEL --out RUN                     the search alone, once a model
  unipruning project MODEL RUN --sparsity 2:4 --out DIR any sparsity, as often as you like
  unipruning perplexity DIR --data wikitext2            what it cost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 with one sentence on standard error."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # what that library warns of concerns those who write models, not those who prune them
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return int(options.run(options))
    except UnipruningError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command resumes an unfinished search", file=sys.stderr)
        return INTERRUPTED
    # torch loads every installed device extension when it is imported, and fails with the first that does
    except RuntimeError as error:
        if AUTOLOAD_FAILED not in str(error) or options.traceback:
            raise
        print(
            f"error: torch cannot be imported because a device extension fails ({first_line(error)}); {REMEDY}; "
            "'unipruning backends' says more",
            file=sys.stderr,
        )
        return USAGE_ERROR


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        "unipruning", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"unipruning {version('unipruning')}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = "") -> Any:
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    add_prune(command, _prune)
    add_search(command, _search)
    add_project(command, _project)
    cli_budget.add_command(command)
    add_perplexity(command, _perplexity)
    add_demo(command, _demo)
    backends = command("backends", _backends, "list the installed backends and why one cannot run here")
    backends.add_argument("--json", action="store_true", help="print JSON")
    conform = command("conform", _conform, "hold a backend to the contract on this machine (needs pytest)")
    conform.add_argument("--backend", default="cpu", help="its name, as 'unipruning backends' shows it")
    conform.add_argument("pytest_options", nargs="*", metavar="PYTEST_OPTION", help="passed on, after --")
    cli_compare.add_commands(command)
    cli_bench.add_commands(command)
    return parser


def _search(options: argparse.Namespace) -> int:
    from unipruning_core.jobs.jobs import run_search

    run = run_search(
        model_choice(options),
        data_choice(options),
        search_settings(options),
        options.out,
        backend=options.backend,
        overwrite=options.overwrite,
        save_every=options.save_every,
        progress=TerminalProgress(),
    )
    print(f"run folder {run.folder}: Γ of {len(run.targets)} layers")
    print(f"next: unipruning project {options.model} {run.folder} --sparsity 60% --out DIR")
    return 0


def _project(options: argparse.Namespace) -> int:
    from unipruning_core.jobs.jobs import run_project

    projected = run_project(
        model_choice(options),
        options.run_folder,
        sparsities(options),
        options.out,
        backend=options.backend,
        overwrite=options.overwrite,
        progress=TerminalProgress(),
    )
    _print_projected(projected)
    return 0


def _prune(options: argparse.Namespace) -> int:
    from unipruning_core.jobs.jobs import run_prune

    run_folder = options.run_folder or options.out.with_name(f"{options.out.name}-run")
    projected = run_prune(
        model_choice(options),
        data_choice(options),
        search_settings(options),
        sparsities(options),
        run_folder,
        options.out,
        backend=options.backend,
        overwrite=options.overwrite,
        save_every=options.save_every,
        progress=TerminalProgress(),
    )
    _print_projected(projected)
    print(f"other sparsities from the same search: unipruning project {options.model} {run_folder} --sparsity ...")
    return 0


def _print_projected(projected: Sequence[Any]) -> None:
    for result in projected:
        share = result.pruned / result.total
        print(
            f"{result.sparsity!s:>12}  {result.path}  pruned {result.pruned} of {result.total} weights ({share:.4%}), "
            f"zeros {result.zero_share:.4%}"
        )


def _perplexity(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from unipruning_core.jobs.jobs import run_perplexity

    found = run_perplexity(
        model_choice(options),
        data_choice(options),
        backend=options.backend,
        windows=options.windows,
        progress=TerminalProgress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        print(
            f"perplexity {found.perplexity:.3f}  ({found.tokens} tokens in {found.windows} windows of {found.seq_len}; "
            f"{found.source}, sha256 {found.data_sha256[:12]}; {found.dtype})"
        )
    return 0


def _demo(options: argparse.Namespace) -> int:
    from unipruning_core.tools.demo.demo import DemoChoice, run_demo

    choice = DemoChoice(
        options.model,
        options.data,
        options.eval_data,
        options.sparsity or ["50%", "60%", "2:4"],
        options.samples,
        options.seq_len,
        options.windows,
        options.mode,
        options.out,
        options.backend,
    )
    print(run_demo(choice, TerminalProgress()))
    return 0


def _backends(options: argparse.Namespace) -> int:
    from unipruning_core.backend import OPERATIONS
    from unipruning_core.registry import Catalogue

    extensions = load_extensions()
    catalogue = Catalogue()
    rows: list[dict[str, Any]] = []
    for spec in sorted(catalogue.specs.values(), key=lambda spec: (-spec.priority, spec.name)):
        probe = catalogue.probe(spec)
        rows.append(
            {
                "name": spec.name,
                "device": spec.device_type,
                "available": probe.available,
                "detail": probe.detail,
                "optimised": [name for name in OPERATIONS if name in spec.optimised],
                "reference": [name for name in OPERATIONS if name not in spec.optimised],
            }
        )
    broken = {name: f"{type(error).__name__}: {error}" for name, error in catalogue.broken.items()}
    if options.json:
        print(json.dumps({"backends": rows, "broken": broken, "extensions": extensions}, indent=1))
        return 0
    for row in rows:
        print(f"{row['name']:8} {row['device']:6} {'yes' if row['available'] else 'no':4} {row['detail']}")
        for kind in ("optimised", "reference"):
            print(f"{'':20} {kind}: {', '.join(row[kind]) or 'none'}")
    for name, reason in broken.items():
        print(f"{name:8} {'?':6} no   its plugin does not load: {reason}")
    for name, reason in extensions.items():
        print(f"every command that computes fails with torch's device extension {name} ({reason}); {REMEDY}")
    return 0


def _conform(options: argparse.Namespace) -> int:
    from unipruning_core.testing.runner import run

    return run(options.backend, options.pytest_options)


if __name__ == "__main__":
    sys.exit(main())

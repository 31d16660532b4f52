"""The command that makes budgets, allocate; a part of the command line."""

from __future__ import annotations

import argparse
from fractions import Fraction

from unipruning_core.cli.options import Command, add_allocate, model_choice
from unipruning_core.errors import ConfigError, OutputError


def add_command(command: Command) -> None:
    """Declare it."""
    add_allocate(command, _allocate)


def _allocate(options: argparse.Namespace) -> int:
    from unipruning_core.cli.progress import TerminalProgress
    from unipruning_core.models.hub import resolve_model
    from unipruning_core.projection.allocate import fisher_rows, owl
    from unipruning_core.registry import Catalogue
    from unipruning_core.search.run_folder import Run
    from unipruning_core.sparsity.forms import Unstructured
    from unipruning_core.sparsity.parse import parse_sparsity
    from unipruning_core.storage.checkpoint import Checkpoint

    sparsity, spread = parse_sparsity(options.sparsity), _number(options.spread)
    if not isinstance(sparsity, Unstructured) or sparsity.scope != "suited":
        raise ConfigError(f"allocate divides a share of all weights, such as 60%, not {options.sparsity!r}")
    if options.out.exists() and not (options.overwrite and options.out.is_file()):
        raise OutputError(f"{str(options.out)!r} exists; choose another file, or replace a file with --overwrite")
    backend = Catalogue().select(options.backend)
    choice = model_choice(options)
    checkpoint = Checkpoint.open(resolve_model(choice.name, trust_remote_code=choice.trust_remote_code))
    run, progress = Run.open(options.run_folder), TerminalProgress()
    if options.scheme == "owl":
        budget = owl(
            checkpoint,
            run,
            sparsity.share,
            backend,
            multiple=options.outlier_multiple,
            spread=spread,
            progress=progress,
        )
    else:
        budget = fisher_rows(checkpoint, run, sparsity.share, backend, spread=spread, progress=progress)
    budget.check(run.targets)
    try:
        options.out.write_text(budget.to_text(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{str(options.out)!r} cannot be written: {error.strerror}; choose another file") from error
    for pattern, cut in budget.rules:
        print(f"{cut!s:>24}  {pattern}")
    print(f"budget {options.out}: {sparsity} of {len(run.targets)} layers")
    print(f"next: unipruning project {options.model} RUN --sparsity @{options.out} --out DIR")
    return 0


def _number(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--spread must be a number such as 0.08, not {text!r}") from error

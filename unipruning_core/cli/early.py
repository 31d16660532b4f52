"""What can be refused before torch is imported: misspelt names, and files and folders that are not there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unipruning_core.cli.places import place_of, placed
from unipruning_core.data.sources import find_text
from unipruning_core.errors import CheckpointError
from unipruning_core.models.hub import check_model, check_revision, check_tokenizer
from unipruning_core.models.named import check_dtype
from unipruning_core.search.finished import check_finished


def _check_backend(name: str | None) -> None:
    # pluggy and the metadata of packages are for those who name a backend
    from unipruning_core.registry import Catalogue

    Catalogue().requested(name)


def _check_models(names: Sequence[str]) -> None:
    for name in names:
        check_model(name)


def _check_texts(data: str | Mapping[str, float]) -> None:
    for source in [data] if isinstance(data, str) else data:
        find_text(source)


def _check_pruned(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is not a folder; pass a folder that 'unipruning project' wrote")


CHECKS: Mapping[str, Callable[[Any], object]] = {
    "dtype": check_dtype,
    "backend": _check_backend,
    "run_folder": check_finished,
    "model": check_model,
    "models": _check_models,
    "pruned": _check_pruned,
    "tokenizer": check_tokenizer,
    "data": _check_texts,
    "eval_data": find_text,
}


def check_first(options: argparse.Namespace, *names: str) -> None:
    """Check what these options name; those that were not given pass.

    Each check is made again where its subject is used, with the same message; here it costs a small part of an import.

    Raises:
        UnipruningError: a name is wrong, or what it names is not there.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None or name == "backend":
            with placed(place_of(options, name)):
                CHECKS[name](value)
        if name in ("model", "models") and value is not None:
            with placed(place_of(options, "revision")):
                check_revision([value] if name == "model" else value, options.revision)

"""The folders that a report is of, told apart by the names in them alone; imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unipruning_core.errors import ConfigError
from unipruning_core.projection.report import REPORT_FILE
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.storage.paths import path_errors_as


@dataclass(frozen=True)
class Folders:
    """Run folders and pruned checkpoints, in the order they were given in."""

    runs: tuple[Path, ...]
    outputs: tuple[Path, ...]

    @property
    def labels(self) -> dict[Path, str]:
        """The shortest name of each that its parents do not share with all others."""
        paths = [*self.runs, *self.outputs]
        absolute = [os.path.abspath(path) for path in paths]
        # a folder that holds others of them has no name below itself
        shared = os.path.commonpath([os.path.dirname(path) for path in absolute])
        return {path: os.path.relpath(whole, shared) for path, whole in zip(paths, absolute, strict=True)}


def find_folders(given: Iterable[Path]) -> Folders:
    """Tell run folders from pruned checkpoints; a folder of checkpoints, one a sparsity, stands for them.

    Raises:
        ConfigError: a folder is neither, or is given twice.
    """
    runs: list[Path] = []
    outputs: list[Path] = []
    for folder in given:
        with path_errors_as(ConfigError, f"folder {str(folder)!r}"):
            if (folder / RUN_FILE).is_file():
                found = [folder]
                runs += found
            else:
                inside = [folder] if (folder / REPORT_FILE).is_file() else sorted(_checkpoints_in(folder))
                outputs += (found := inside)
        if not found:
            raise ConfigError(
                f"{str(folder)!r} has neither {RUN_FILE} nor {REPORT_FILE}; pass folders that 'unipruning search' or "
                "'unipruning project' wrote"
            )
    places = [os.path.realpath(path) for path in (*runs, *outputs)]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ConfigError(f"folder {twice!r} is given twice; pass it once")
    return Folders(tuple(runs), tuple(outputs))


def _checkpoints_in(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"*/{REPORT_FILE}") if path.is_file()]

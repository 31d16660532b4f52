"""Whether a folder holds a finished search, by the names in it alone; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from unipruning_core.errors import RunError
from unipruning_core.storage.paths import path_errors_as

RUN_FILE = "run.json"
COMPILED = "compilation"  # in it: true where the decoder blocks ran compiled
NOT_COMPILED = "not_compiled"  # why they did not, where that was asked for


def check_finished(folder: Path) -> None:
    """Refuse a folder that no finished search has written.

    Raises:
        RunError: it does not exist, or has no run.json.
    """
    with path_errors_as(RunError, f"run folder {str(folder)!r}"):
        exists, finished = folder.is_dir(), (folder / RUN_FILE).is_file()
    if not exists:
        raise RunError(f"run folder {str(folder)!r} does not exist; make it with 'unipruning search MODEL --out RUN'")
    if not finished:
        raise RunError(
            f"{str(folder)!r} has no {RUN_FILE}, so it is not a run folder or its search has not finished; "
            "repeat the 'unipruning search' command, which resumes where it stopped"
        )

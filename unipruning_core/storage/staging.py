"""A folder that appears whole or not at all: written beside its final path, synced to disk, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unipruning_core.errors import OutputError, reason_and_remedy
from unipruning_core.progress import Progress
from unipruning_core.storage.files import sync


@contextmanager
def staged(out: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it becomes ``out``, on any failure it is removed.

    An empty ``out`` is replaced, any other only if ``replace`` is set, and then not before the last moment.

    Raises:
        OutputError: the disk is full, or the folder cannot be written for another reason.
    """
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        _sync(partial)
        _publish(partial, out, replace)
    except OSError as error:
        reason = reason_and_remedy(error, "choose another folder", out)
        raise OutputError(f"output folder {str(out)!r} could not be written: {reason}") from error
    finally:
        # the original error is the one to show; what cannot be removed now is removed at the next start
        shutil.rmtree(partial, ignore_errors=True)


def clean_up(out: Path, progress: Progress) -> None:
    """Remove what killed processes left beside ``out``, and put back a folder that one of them had moved aside."""
    if not out.parent.is_dir():
        return
    pattern = re.compile(re.escape(out.name) + r"\.(partial|replaced)-([0-9]{1,9})")
    for folder in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(folder.name)
        if match is None or _is_alive(int(match[2])):
            continue
        try:
            if match[1] == "replaced" and not out.exists():
                folder.rename(out)
                progress.note(f"put back {str(out)!r}, which a killed process had moved aside")
            else:
                shutil.rmtree(folder)
                progress.note(f"removed {str(folder)!r}, which a killed process had left behind")
        except OSError as error:
            raise OutputError(
                f"{str(folder)!r} is left over and cannot be removed: {error}; remove it by hand"
            ) from error


def check_space(out: Path, wanted: int) -> None:
    """Refuse to start if ``wanted`` bytes do not fit on the disk of ``out``."""
    existing = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise OutputError(
            f"output folder {str(out)!r} needs {wanted} bytes, but its disk has {free} free; free some space there"
        )


def _publish(partial: Path, out: Path, replace: bool) -> None:
    if replace and out.exists():
        aside = out.with_name(f"{out.name}.replaced-{os.getpid()}")
        out.rename(aside)
        try:
            partial.rename(out)
        except OSError:
            aside.rename(out)
            raise
        shutil.rmtree(aside)
    else:
        partial.rename(out)
    sync(out.parent)


def _sync(folder: Path) -> None:
    """Sync a folder to disk; without this a power cut after the rename could leave empty files."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root) / name)
        sync(Path(root))


def _is_alive(pid: int) -> bool:
    # in a container a killed process and its successor often have the same id
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

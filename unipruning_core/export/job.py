"""A pruned checkpoint written in another format: checked first, made beside its place, and put there whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipruning_core.export.registry import DEFAULT, Formats
from unipruning_core.export.source import Source
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.report import MASKS, REVISION
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.files import sha256, write_json
from unipruning_core.storage.layout import CONFIG_FILE
from unipruning_core.storage.outputs import check_apart, check_new, check_space, errors_as_output_errors
from unipruning_core.storage.staging import working

RECORD_FILE = "unipruning-export.json"
FORMAT = "unipruning-export-1"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    to: str
    type: str  # "" for a format that has one alone
    bytes: int  # of all files
    files: tuple[str, ...]  # relative to the folder
    details: dict[str, Any]  # of the format

    def to_json(self) -> dict[str, Any]:
        about = {"format": FORMAT, "folder": str(self.folder), "to": self.to, "type": self.type or None}
        return {**about, "bytes": self.bytes, "files": list(self.files), **self.details}


def export(
    pruned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str = DEFAULT,
    *,
    type: str | None = None,
    force: bool = False,
    progress: bool | Progress = True,
) -> Exported:
    """Write a pruned checkpoint in another format, into a folder that does not exist yet.

    Every pruned matrix is compared with the checksum in its report while it is read.  Beside what the format consists
    of, the folder gets ``unipruning-export.json``, with the sparsity and the checksums of all files.

    Args:
        pruned: a folder that ``project`` or ``prune`` wrote, or ``record_tuned`` has recorded.
        out: the folder to write.
        to: the name of a format, as ``unipruning export --list`` prints it.
        type: the type of its numbers, where it has several.
        force: accept a type that loses zeros.

    Raises:
        ConfigError: there is no such format or type, or it cannot hold this model.
        CheckpointError: the checkpoint is damaged, or is not what was pruned.
        OutputError: the folder exists, or does not fit on its disk.
    """
    pruned, out, shown, formats = Path(pruned), Path(out), as_progress(progress), Formats()
    spec, choice = formats.requested(to, type, force=force)
    check_new(out)
    source = Source.open(pruned, shown)
    exporter = formats.load(spec)
    size = exporter.size(source, choice)
    with errors_as_output_errors(out):
        out = out.resolve()
        check_apart(out, "checkpoint", [source.folder])
        check_new(out)
        check_space(out, size + sum((source.folder / path).stat().st_size for path in source.files()))
        with working(out.with_name(f"{out.name}.partial"), out, "checkpoint", last=(CONFIG_FILE,)) as work:
            folder = work.start()
            details = dict(exporter.write(source, choice, folder, shown))
            files = _recorded(source, spec.name, choice.type, folder, details)
            size = sum((folder / name).stat().st_size for name in files)
            work.publish()
    return Exported(out, spec.name, str(details.get("type", choice.type)), size, files, details)


def _recorded(source: Source, to: str, type_name: str, folder: Path, details: dict[str, Any]) -> tuple[str, ...]:
    """Write the record, and return the names of all files."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    about = {name: source.report[name] for name in (REVISION, MASKS) if name in source.report}
    record = {
        "format": FORMAT,
        "to": to,
        **({"type": type_name} if type_name else {}),
        "sparsity": source.masks.sparsity,
        **about,
        **details,
        "files": {path.as_posix(): sha256(folder / path) for path in paths},
    }
    write_json(folder / RECORD_FILE, sealed(record))
    return (*(path.as_posix() for path in paths), RECORD_FILE)

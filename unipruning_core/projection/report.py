"""``unipruning.json`` beside a pruned checkpoint: what was pruned and how, with the checksums of what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.documents import (
    CHECKSUM,
    NUMBER,
    digest_member,
    member,
    quoted,
    read_object,
    sealed,
    unsealed,
)
from unipruning_core.storage.layout import COMMIT

REPORT_FILE = "unipruning.json"
FORMAT = "unipruning-checkpoint-3"
# 2 had no checksums, 1 listed the settings of every mode
EARLIER_FORMATS = ("unipruning-checkpoint-2", "unipruning-checkpoint-1")
MASKS = "masks_sha256"  # of the mask file
REVISION = "model_revision"  # commit on the hub of the model that was pruned, if it came from there
KEEP_PER_ROW = "keep_per_row"  # weights that every output row was to keep; reports lacked it at first
NOT_COPIED = "not_copied"  # files of the model folder, with the reason; at first under the name of what stays dense
EMPTY = ("empty_rows", "empty_columns")  # which the masks remove whole; reports lacked them at first
TUNED = "tuned"  # true where the kept weights were trained after pruning
MODEL = "model"  # counts of the whole model, which reports lacked at first


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report of a pruned checkpoint, of any format.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / REPORT_FILE
    try:
        return _checked(read_object(path))
    except OSError as error:
        raise CheckpointError(
            f"report {str(path)!r} cannot be read: {error.strerror}; pass a folder that 'unipruning project' wrote"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"report {str(path)!r} is damaged ({error}); project again") from error


def write_report(folder: Path, content: dict[str, Any]) -> None:
    """Write a report with its format and checksum, the same bytes for the same content."""
    text = json.dumps(sealed({"format": FORMAT, **content}), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def found_report(folder: Path) -> dict[str, Any] | None:
    """Return the report of a pruned checkpoint, or None for any other folder."""
    try:
        return read_report(folder)
    except CheckpointError:
        return None


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    if (version := content.get("format")) not in (FORMAT, *EARLIER_FORMATS):
        raise ValueError(f"its format is {quoted(version)}, not {FORMAT!r}")
    if version != FORMAT and CHECKSUM in content:
        raise ValueError(f"its format is {version!r}, which had no checksum")
    report = unsealed(content) if version == FORMAT else content
    member(report, "sparsity", str)
    member(report, "provenance", dict)
    overall, matrices = member(report, "overall", dict), member(report, "matrices", dict)
    everywhere = (overall, *(member(matrices, name, dict) for name in matrices))
    for counts in everywhere:
        _check_counts(counts)
    for name in ("kept", "total", *(name for name in EMPTY if any(name in counts for counts in everywhere))):
        if member(overall, name, int) != (summed := sum(member(counts, name, int) for counts in matrices.values())):
            raise ValueError(f"{name!r} of all matrices is {overall[name]}, not {summed}")
    if REVISION in report and not COMMIT.fullmatch(member(report, REVISION, str)):
        raise ValueError(f"{REVISION!r} is {quoted(report[REVISION])}")
    if KEEP_PER_ROW in report and member(report, KEEP_PER_ROW, int) < 0:
        raise ValueError(f"{KEEP_PER_ROW!r} is {report[KEEP_PER_ROW]}")
    if TUNED in report:
        member(report, TUNED, bool)
    if MODEL in overall:
        _check_of_model(member(overall, MODEL, dict), overall)
    if version == FORMAT:
        if not all(isinstance(name, str) for name in member(report, "written", list)):
            raise ValueError("'written' is not a list of names")
        for holder, name in ((report, MASKS), *((counts, "sha256") for counts in matrices.values())):
            digest_member(holder, name)
    return report


def _check_of_model(counts: dict[str, Any], overall: dict[str, Any]) -> None:
    weights, pruned = member(counts, "weights", int), member(counts, "pruned", int)
    if weights < overall["total"] or pruned != overall["total"] - overall["kept"]:
        raise ValueError(f"{quoted(pruned)} of the model's {quoted(weights)} weights are pruned")
    if member(counts, "sparsity", NUMBER) != pruned / weights:
        raise ValueError(f"'sparsity' of the model is {quoted(counts['sparsity'])} with {pruned} of {weights} pruned")


def _check_counts(counts: dict[str, Any]) -> None:
    member(counts, "asked", str)
    kept, total = member(counts, "kept", int), member(counts, "total", int)
    if not 0 <= kept <= total or total == 0:
        raise ValueError(f"{quoted(kept)} weights are kept of {quoted(total)}")
    if member(counts, "sparsity", NUMBER) != (total - kept) / total:
        raise ValueError(f"'sparsity' is {quoted(counts['sparsity'])} with {kept} of {total} weights kept")
    if any(member(counts, name, int) < 0 for name in EMPTY if name in counts):
        raise ValueError(f"{', '.join(EMPTY)} are not both 0 or more")
    if not 0 <= member(counts, "zero_share", NUMBER) <= 1:
        raise ValueError(f"'zero_share' is {quoted(counts['zero_share'])}")

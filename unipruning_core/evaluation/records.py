"""The folder of an evaluation: what was measured of each checkpoint, and lm-eval's own files beside it.

FOLDER/results.csv, results.json                                        the table
FOLDER/NAME-FINGERPRINT/TASK-DIGEST/results.json, samples_TASK.jsonl    as lm-eval writes them
FOLDER/NAME-FINGERPRINT/TASK-DIGEST/measured.json                       written last: the cell is whole
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unipruning_core.errors import OutputError
from unipruning_core.evaluation.measures import Measure
from unipruning_core.storage.documents import NUMBER, is_number, member, read_object, sealed, unsealed
from unipruning_core.storage.files import write_json, write_text
from unipruning_core.storage.outputs import errors_as_output_errors

MEASURED = "measured.json"
SHORT = 12  # digits of a digest in a name
LONGEST_NAME = 60


@dataclass(frozen=True)
class Cell:
    """One task or text of one checkpoint, and the facts that its figures depend on."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, checkpoint: Path, name: str, facts: Mapping[str, Any]) -> Cell:
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cls(checkpoint / f"{as_file_name(name)}-{digest[:SHORT]}", facts)

    def read(self) -> list[Measure] | None:
        """Return what was measured, or None where it is still to be.

        Raises:
            OutputError: the record is damaged or cannot be read.
        """
        path = self.folder / MEASURED
        if not path.exists():
            return None
        try:
            content = unsealed(read_object(path))
            if member(content, "facts", dict) != self.facts:
                raise ValueError("its 'facts' are those of another measurement")
            return [_measure(item) for item in member(content, "measures", list)]
        except OSError as error:
            raise OutputError(f"record {str(path)!r} cannot be read: {error.strerror}; make it readable") from error
        except ValueError as error:
            raise OutputError(f"record {str(path)!r} is damaged ({error}); remove it to measure again") from error

    def write(self, measures: Sequence[Measure], files: Mapping[str, str]) -> None:
        """Write what was measured, after the files of another program that belong to it."""
        plain = [asdict(measure) for measure in measures]
        for item in plain:
            item |= {"value": _finite(item["value"]), "items": [_finite(value) for value in item["items"]]}
        with errors_as_output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                write_text(self.folder / name, text, errors="backslashreplace")
            write_json(self.folder / MEASURED, sealed({"facts": dict(self.facts), "measures": plain}))


def as_file_name(name: str) -> str:
    """Return a name in letters that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:LONGEST_NAME] or "_"


def folder_name(model: str, fingerprint: str) -> str:
    """Return the name of a checkpoint's folder: the same for the same weights, wherever they lie."""
    return f"{as_file_name(Path(model).name)}-{fingerprint[:SHORT]}"


def tidy(folder: Path) -> None:
    """Remove the files that killed commands were writing."""
    with errors_as_output_errors(folder):
        for pattern in ("*/*/*.partial", "results.*.partial"):
            for path in folder.glob(pattern):
                path.unlink()


def _measure(item: Any) -> Measure:
    items, hashes = member(item, "items", list), member(item, "hashes", list)
    if not all(value is None or is_number(value) for value in items) or len(hashes) != len(items):
        raise ValueError("'items' are not a number for each of 'hashes'")
    return Measure(
        member(item, "task", str),
        member(item, "metric", str),
        _infinite(member(item, "value", NUMBER | None)),
        member(item, "stderr", NUMBER | None),
        tuple(map(_infinite, items)),
        tuple(map(str, hashes)),
    )


def _finite(value: float) -> float | None:
    """JSON has no infinity, which is what a perplexity can be."""
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)

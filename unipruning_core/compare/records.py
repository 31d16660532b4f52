"""What a comparison has measured, on disk: sealed when written, checked as a whole when read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import OutputError
from unipruning_core.storage.documents import CHECKSUM, NUMBER, is_number, member, quoted, read_object, sealed, unsealed
from unipruning_core.storage.files import write_json

if TYPE_CHECKING:
    from unipruning_core.tools.processes import Stage

SEARCH_KEYS = {"facts", "method", "seconds", "peak_mib", "tokens"}
EVALUATION_KEYS = {"facts", "search", "project", "pruned", "evaluate", "measured"}


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record as strict JSON: numbers that are not finite are null."""
    write_json(path, sealed(_plain(content)))


def read_search(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Read the record of a search with these facts.

    Raises:
        OutputError: it cannot be read, is damaged, or is of another search.
    """
    record = _read(path, facts, SEARCH_KEYS)
    try:
        member(record, "method", str)
        _check_search(record)
    except ValueError as error:
        raise _damaged(path, error) from error
    return record


def read_evaluation(path: Path, facts: Mapping[str, Any], *, pruned: bool) -> dict[str, Any]:
    """Read the record of an evaluation with these facts, of a pruned model or of the dense one.

    Raises:
        OutputError: it cannot be read, is damaged, or is of another evaluation.
    """
    record = _read(path, facts, EVALUATION_KEYS)
    try:
        _check_cost(member(record, "evaluate", dict))
        losses = member(member(record, "measured", dict), "per_window_nll", list)
        if len(losses) != facts["windows"]:
            raise ValueError(f"it has {len(losses)} windows, not {facts['windows']}")
        if not all(loss is None or is_number(loss) for loss in losses):
            raise ValueError("'per_window_nll' are not all numbers")
        if pruned and not 0 <= member(member(record, "pruned", dict), "sparsity", NUMBER) <= 1:
            raise ValueError(f"'sparsity' is {quoted(record['pruned']['sparsity'])}")
        if pruned and "model" in record["pruned"]:
            of_model = member(member(record["pruned"], "model", dict), "sparsity", NUMBER)
            if not 0 <= of_model <= 1:
                raise ValueError(f"'sparsity' of the model is {quoted(of_model)}")
        if "search" in record:
            _check_search(member(record, "search", dict))
        elif pruned:
            _check_cost(member(record, "project", dict))
    except ValueError as error:
        raise _damaged(path, error) from error
    record["measured"]["per_window_nll"] = [math.inf if loss is None else loss for loss in losses]
    return record


def added(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Add the costs of two steps in sequence; the time is unknown if one of them is."""
    known = first["seconds"] is not None and second["seconds"] is not None
    peaks = [cost["peak_mib"] for cost in (first, second) if cost["peak_mib"] is not None]
    seconds = first["seconds"] + second["seconds"] if known else None
    return {**first, "seconds": seconds, "peak_mib": max(peaks, default=None)}


def cost_of(stage: Stage) -> dict[str, float]:
    """Return the cost of a command that has ended."""
    return {key: value for key, value in asdict(stage).items() if key != "output"}


def _read(path: Path, facts: Mapping[str, Any], keys: Set[str]) -> dict[str, Any]:
    try:
        record = read_object(path)
        # records of before 0.2.0 have no checksum
        if CHECKSUM in record:
            record = unsealed(record)
        # the name of the checksum may be what is damaged
        if unknown := sorted(record.keys() - keys):
            raise ValueError(f"{unknown[0]!r} is unknown")
        if member(record, "facts", dict) != _plain(facts):
            raise ValueError("its 'facts' are not those of this measurement")
    except OSError as error:
        raise OutputError(
            f"record {str(path)!r} cannot be read: {error.strerror}; make it readable, or remove the evaluations of its"
            " search to measure again"
        ) from error
    except ValueError as error:
        raise _damaged(path, error) from error
    return record


def _damaged(path: Path, error: ValueError) -> OutputError:
    return OutputError(f"record {str(path)!r} is damaged ({error}); remove it to measure again")


def _check_search(record: dict[str, Any]) -> None:
    _check_cost(record)
    if member(record, "tokens", int) < 0:
        raise ValueError(f"'tokens' is {record['tokens']}")


def _check_cost(cost: dict[str, Any]) -> None:
    for name in ("seconds", "peak_mib"):
        if (value := member(cost, name, NUMBER | None)) is not None and value < 0:
            raise ValueError(f"{name!r} is {quoted(value)}")


def _plain(content: Any) -> Any:
    """Return the content as JSON reads it back."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)

"""The definition as a judge, for those who call a backend outside the suite; needs no pytest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipruning_core.backend import Backend
from unipruning_core.testing.compare import bits, require_equal
from unipruning_kernels import reference

BAR_FILE = "perf_bar.json"


def plain_torch(device: str) -> Backend:
    """The definition itself as a backend for one kind of device."""

    class PlainTorch(reference.Operations, Backend):
        name = "reference"
        device_type = device

    return PlainTorch()


def verify(
    backend: Backend,
    operation: str,
    arguments: tuple[Any, ...],  # tensors on the host, which stay as they are
    options: dict[str, Any],
    sample_rows: int | None = None,  # compare this many rows; only where each row's result is its own
) -> None:
    """Run an operation on copies of the arguments and compare all it gave with the reference on the host.

    Raises:
        AssertionError: a result is wrong, or an argument changed that must not.
    """
    placed = [value.to(backend.device_type, copy=True) if isinstance(value, Tensor) else value for value in arguments]
    returned = getattr(backend, operation)(*placed, **options)
    rows = slice(None) if sample_rows is None else _spread(len(arguments[0]), sample_rows)
    before = [_part(value, rows) for value in arguments]
    after = [value.clone() if isinstance(value, Tensor) else value for value in before]
    wanted = getattr(reference, operation)(*after, **options)
    for number, (was, expected, found) in enumerate(zip(before, after, placed, strict=True)):
        if isinstance(was, Tensor):
            actual = _part(found, rows).cpu()
            if not torch.equal(bits(was), bits(expected)):
                require_equal(operation, f"argument {number}", actual, expected, backend.name)
            elif not torch.equal(bits(actual), bits(was)):
                raise AssertionError(f"{operation}: argument {number} must not change, but it did; {backend.name}")
    results = [() if value is None else value if isinstance(value, tuple) else (value,) for value in (returned, wanted)]
    for number, (actual, expected) in enumerate(zip(*results, strict=True)):
        require_equal(operation, f"result {number}", _part(actual, rows).cpu(), expected, backend.name)


def perf_bar() -> dict[str, dict[str, dict[str, Any]]]:
    """What the kernels cost as far as it is known without a device: by section, kernel and figure."""
    path = Path(reference.__file__).parent / BAR_FILE
    bar: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return bar


def _part(value: Any, rows: slice | Tensor) -> Any:
    return value[rows.to(value.device) if isinstance(rows, Tensor) else rows] if _is_matrix(value) else value


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _spread(rows: int, wanted: int) -> Tensor:
    """Row numbers from the first to the last, evenly."""
    return torch.linspace(0, rows - 1, min(rows, wanted), dtype=torch.float64).round().long()

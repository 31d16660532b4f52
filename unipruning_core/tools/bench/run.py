"""The benchmark: each result is compared with the definition before it is timed, and a wrong one is not timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from unipruning_core.backend import Backend
from unipruning_core.errors import ConfigError
from unipruning_core.tools.bench.baseline import baseline
from unipruning_core.tools.bench.cases import SAMPLED_ROWS, Call, Case, Inputs, calls_of, ready
from unipruning_core.tools.bench.names import MEASURED

SHORTEST_SAMPLE = 1e-3  # seconds; faster runs are repeated within one sample to last this long

Judge = Callable[[Backend, str, Call, "int | None"], None]  # raises AssertionError for a wrong result


@dataclass(frozen=True)
class BenchLine:
    """One operation on one shape: the seconds of a run and figures derived from them; none if the result is wrong."""

    backend: str
    operation: str
    shape: str  # RxC, or "sum" over a model's layers
    dtype: str
    layers: int  # how many matrices of this shape the model has; 1 without a model
    elements: int  # of all these layers
    least_bytes: float  # per element, for any implementation
    median: float | None = None  # seconds for all these layers, like the others
    p20: float | None = None
    p80: float | None = None
    copy: float | None = None  # seconds of a copy that moves the minimum bytes, in the same run
    baseline: float | None = None  # median seconds of the baseline
    wrong: str | None = None  # where the result differs from the definition

    @property
    def ns_per_element(self) -> float | None:
        return self.median and self.median * 1e9 / self.elements

    @property
    def gb_per_second(self) -> float | None:
        """The minimum bytes over the time: the effective bandwidth."""
        return self.median and self.least_bytes * self.elements / self.median / 1e9

    @property
    def percent_of_copy(self) -> float | None:
        return self.copy and self.median and 100 * self.copy / self.median

    @property
    def bytes_at_copy_speed(self) -> float | None:
        """Bytes per element that a copy moves in this time: near ``least_bytes`` if memory is the limit."""
        return self.copy and self.median and self.least_bytes * self.median / self.copy

    @property
    def speedup(self) -> float | None:
        """The baseline's time over this time."""
        return self.baseline and self.median and self.baseline / self.median


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    operations: Sequence[str]
    shapes: dict[tuple[int, int], int]  # rows and columns, and how many layers have them
    dtypes: Sequence[torch.dtype]
    repeat: int = 7  # timed samples of each, after one untimed run
    baseline: str | None = None

    def cases(self) -> Iterator[tuple[Case, int]]:
        for dtype in self.dtypes:
            for (rows, cols), layers in self.shapes.items():
                for operation in self.operations:
                    yield Case(operation, rows, cols, dtype), layers


def run(bench: Bench, backends: Sequence[tuple[Backend, Backend]], judge: Judge) -> Iterator[BenchLine]:
    """Yield a line for every case on every backend; each backend comes with plain torch on the same device."""
    for backend, plain in backends:
        copies = Copies(backend.device_type, bench.repeat)
        inputs: Inputs | None = None
        made_for: tuple[int, int, torch.dtype] | None = None
        for case, layers in bench.cases():
            if inputs is None or made_for != (case.rows, case.cols, case.dtype):
                inputs, made_for = None, (case.rows, case.cols, case.dtype)
                inputs = Inputs(*made_for)
            line = BenchLine(
                backend.name,
                case.operation,
                case.shape,
                str(case.dtype).removeprefix("torch."),
                layers,
                layers * case.elements,
                case.least_bytes,
            )
            try:
                for part, call in calls_of(case.operation, inputs):
                    judge(backend, part, call, SAMPLED_ROWS.get(part))
            except AssertionError as error:
                yield replace(line, wrong=str(error))
                continue
            p20, median, p80 = measure(ready(case.operation, inputs, backend), backend.device_type, repeat=bench.repeat)
            yield replace(
                line,
                median=layers * median,
                p20=layers * p20,
                p80=layers * p80,
                copy=layers * copies.seconds(round(case.least_bytes * case.elements)),
                baseline=_compared(bench, case.operation, inputs, plain, layers),
            )


def _compared(bench: Bench, operation: str, inputs: Inputs, plain: Backend, layers: int) -> float | None:
    if bench.baseline is None:
        return None
    try:
        work = baseline(bench.baseline, operation, inputs, plain)
        return layers * measure(work, plain.device_type, repeat=bench.repeat)[1] if work else None
    except RuntimeError as error:
        # the compiler may be missing or refuse; plain torch and our own formulation must not fail
        if bench.baseline != "compile":
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"torch.compile cannot make a baseline of {operation!r}: {reason}; use --baseline eager"
        ) from error


def measure(work: Callable[[], object], device: str, *, repeat: int) -> tuple[float, float, float]:
    """Return the seconds of one run: the 20th percentile, the median and the 80th of ``repeat`` samples."""
    wait = torch.get_device_module(device).synchronize
    work()
    wait()
    began = time.perf_counter()
    work()
    wait()
    runs = max(1, math.ceil(SHORTEST_SAMPLE / max(time.perf_counter() - began, 1e-9)))
    samples = []
    for _ in range(repeat):
        began = time.perf_counter()
        for _ in range(runs):
            work()
        wait()
        samples.append((time.perf_counter() - began) / runs)
    p20, _, _, p80 = statistics.quantiles(samples, n=5, method="inclusive")
    return p20, statistics.median(samples), p80


class Copies:
    """The time a device takes to copy, measured once per size."""

    def __init__(self, device: str, repeat: int) -> None:
        self.device, self.repeat = device, repeat
        self._seconds: dict[int, float] = {}

    def seconds(self, moved: int) -> float:
        """Return the time of a copy that reads half of ``moved`` bytes and writes the other half."""
        if moved not in self._seconds:
            source = torch.ones(max(1, moved // 8), device=self.device)  # four bytes each, read and written
            target = torch.empty_like(source)
            self._seconds[moved] = measure(lambda: target.copy_(source), self.device, repeat=self.repeat)[1]
        return self._seconds[moved]


def summed(lines: Sequence[BenchLine]) -> list[BenchLine]:
    """Sum each backend, operation and dtype over all shapes; groups with a wrong line are left out."""
    groups: dict[tuple[str, str, str], list[BenchLine]] = {}
    for line in lines:
        groups.setdefault((line.backend, line.operation, line.dtype), []).append(line)
    return [_sum(group) for group in groups.values() if not any(line.wrong for line in group)]


def _sum(group: Sequence[BenchLine]) -> BenchLine:
    def total(name: str) -> float | None:
        values = [getattr(line, name) for line in group]
        return None if None in values else math.fsum(values)

    elements = sum(line.elements for line in group)
    return replace(
        group[0],
        shape="sum",
        layers=sum(line.layers for line in group),
        elements=elements,
        least_bytes=math.fsum(line.least_bytes * line.elements for line in group) / elements,
        median=total("median"),
        p20=total("p20"),
        p80=total("p80"),
        copy=total("copy"),
        baseline=total("baseline"),
    )


def known_operations() -> list[str]:
    """Return everything that can be measured."""
    return list(MEASURED)

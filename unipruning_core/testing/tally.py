"""Counts of what a piece of work asks of torch: operators, allocations, and values that the host waits for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from unipruning_core.testing.watch import UNINITIALISED, WAITING, devices_of


class Tally(TorchDispatchMode):
    """A count of the operators called inside, by name.  Operators that a backend launches itself do not pass here."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[str] = Counter()  # that read or write elements
        self.allocations = 0
        self.host_reads = 0

    def __torch_dispatch__(
        self,
        func: Any,  # torch._ops.OpOverload
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        if name in UNINITIALISED:
            self.allocations += 1
        elif not func.is_view:
            self.operators[name] += 1
        copied = "cpu" in devices_of(result) and devices_of((args, kwargs)) - {"cpu"}
        self.host_reads += bool(name in WAITING or copied)
        return result

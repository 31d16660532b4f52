"""The contract between the core and an accelerator: all that a backend author has to read, with ``operations.py``.

A backend is arithmetic on one matrix at a time and nothing else: it draws no random numbers, reads no files,
logs nothing, keeps no state between calls and talks to no other device.  The core owns randomness, order, names
and storage.  That split is what makes one command give one mask on every kind of hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.operations import Operations

if TYPE_CHECKING:
    from torch import dtype

OPERATIONS = (
    "accumulate_sumsq",
    "abs_sums",
    "mirror_step",
    "feedback_scores",
    "mask_weight",
    "remask_weight",
    "feedback_step",
    "magnitude_histogram",
    "threshold_mask",
    "topk_mask",
    "nm_mask",
    "nm_prox",
    "adamw_step",
)

DIGIT_BITS = (11, 10, 10)  # how magnitude_histogram splits the 31 magnitude bits of an fp32, from the top


@dataclass(frozen=True)
class Probe:
    """Whether a backend can run here, and what to tell the user either way."""

    available: bool
    detail: str  #: the device's name when available, else the reason it is not, with the remedy


@dataclass(frozen=True)
class BackendSpec:
    """A plugin's description of its backend, read before anything heavy is imported."""

    name: str  #: what the user types after ``--backend``
    device_type: str  #: torch's name for the device, as in torch.device(...).type
    priority: int  #: "auto" picks the available backend with the highest
    target: str  #: ``package.module:Class``, imported only once selected
    probe: Callable[[], Probe]  #: must be cheap and must not raise
    optimised: frozenset[str] = frozenset()  #: operations with their own implementation; the rest call the reference

    def __post_init__(self) -> None:
        if unknown := self.optimised - set(OPERATIONS):
            raise ValueError(f"backend {self.name!r} declares operations that do not exist: {sorted(unknown)}")


class Backend(Operations):
    """One kind of device: the operations, its name, and what it can do beyond them."""

    name: ClassVar[str]
    device_type: ClassVar[str]

    def loading_dtype(self, stored: dtype) -> dtype:
        """Return the dtype in which to load a model stored as ``stored``, unless the user names one.

        Not an operation: override it where the device has no fast arithmetic in float32, bfloat16 or float16.
        """
        return stored

    def recorded(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record everything that ``work`` launches, without running it, and return what replays it; None if it cannot.

        Not an operation: override it where the device records graphs.  ``work`` has run before, reads nothing on the
        host, and finds its inputs in the same memory each time.

        Raises:
            RuntimeError: the recording failed, and the device is as it was.
        """
        return None

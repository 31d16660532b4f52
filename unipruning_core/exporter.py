"""The contract between the core and a format that pruned checkpoints are exported to: its description.

The work is done by a subclass of ``unipruning_core.export.contract.Exporter``, which the description names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unipruning_core.backend import Probe


@dataclass(frozen=True)
class ExporterSpec:
    """A plugin's description of a format, read before anything heavy is imported."""

    name: str  #: what the user types after ``--to``
    what: str  #: what is written
    smaller: str  #: what zeros save in bytes
    faster: str  #: which runtime computes less for them, or that none does
    target: str  #: ``package.module:Class``, imported only once selected
    probe: Callable[[], Probe]  #: must be cheap and must not raise
    types: tuple[str, ...] = ()  #: what ``--type`` accepts, the default first; none for a format that has one alone
    losing: frozenset[str] = frozenset()  #: those of them that turn zeros into other numbers

    def __post_init__(self) -> None:
        if unknown := self.losing - set(self.types):
            raise ValueError(f"format {self.name!r} declares that types lose zeros which it lacks: {sorted(unknown)}")

"""What a format's class does: the only interface, besides ``ExporterSpec``, that the author of a plugin implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipruning_core.export.source import Source
    from unipruning_core.progress import Progress


@dataclass(frozen=True)
class Choice:
    """What the user asked for besides the format."""

    type: str = ""  # one of ``ExporterSpec.types``, or "" for a format without
    force: bool = False  # zeros may be lost


class Exporter(ABC):
    """A format.  The core has checked the choice and the output, and puts what is written in its place."""

    @abstractmethod
    def size(self, source: Source, choice: Choice) -> int:
        """Return about how many bytes ``write`` writes besides copies of the files beside the weights.

        Raises:
            UnipruningError: this checkpoint cannot be written in this format; nothing has been written yet.
        """

    @abstractmethod
    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Fill an empty folder, one matrix in memory at a time, and return what the record is to say of it.

        A ``type`` that is chosen by what the checkpoint holds is part of that.
        The same source and choice give the same bytes.
        """

"""A sample's device work, recorded once and replayed, so that the host launches nothing for most samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend

PLAIN = 2  # samples of one length before one is recorded: libraries and caches set themselves up on the first


class Recorded:
    """Work from token ids to a few numbers, run plainly until the backend can replay it.

    The work must read no value on the host, take its inputs from tensors that stay where they are, and leave its
    results in such tensors.  The bytes are the same, replayed or not.  One length of sample is recorded, and all
    others are run plainly.
    """

    def __init__(
        self,
        work: Callable[[Tensor], Tensor],  # from (1, tokens) int64 to numbers of one shape
        backend: Backend,
        notes: list[str],  # gets one if recording fails
        reads: Callable[[], object] = list,  # what the work reads that a sample of another length replaces
    ) -> None:
        self.work, self.backend, self.notes, self.reads = work, backend, notes, reads
        self.runs = 0  # in a row, of the latest length
        self.possible = True
        self._shape: torch.Size | None = None
        self._kept: object = None
        self._replay: Callable[[], None] | None = None
        self._input = self._result = torch.empty(0)

    @property
    def recorded(self) -> bool:
        """Whether samples are replayed now."""
        return self._replay is not None

    def __call__(self, input_ids: Tensor) -> Tensor:
        if self._replay is None and self.possible:
            # the same as those before it, so that all that depends on the length is on the device
            self.runs = self.runs + 1 if input_ids.shape == self._shape else 1
            self._shape = input_ids.shape
            if self.runs > PLAIN:
                self._record(input_ids)
        if self._replay is None:
            self._result = self.work(input_ids)
            return self._result
        if self._input.shape != input_ids.shape:
            return self.work(input_ids)
        self._input.copy_(input_ids)
        self._replay()
        return self._result

    def forget(self) -> None:
        """Give back the memory of a recording; later samples run plainly."""
        self.possible = False
        self._replay = self._kept = None

    def _record(self, input_ids: Tensor) -> None:
        self.possible = False  # whatever comes of it, once is enough
        self._input, self._result = input_ids.clone(), torch.zeros_like(self._result)

        def recorded() -> None:
            self._result.copy_(self.work(self._input))

        try:
            self._replay = self.backend.recorded(recorded)
            self._kept = self.reads()
        # what a device raises in the middle of a recording differs by device and version
        except RuntimeError as error:
            self.notes.append(f"samples run step by step, since one could not be recorded: {first_line(error)}")

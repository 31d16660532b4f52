"""A backend of the definitions that records a sample, as far as that can be done without a device."""

from __future__ import annotations

from collections.abc import Callable

from unipruning_core import Backend
from unipruning_core.testing.replaying import Recording
from unipruning_kernels import reference


class ReplayingBackend(reference.Operations, Backend):
    """Records operator by operator, and counts."""

    name, device_type = "replaying", "cpu"

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def recorded(self, work: Callable[[], None]) -> Callable[[], None] | None:
        self.recordings += 1
        recording = Recording()
        recording.record(work)

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay

"""What the user asks of a layout, checked; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.models.layout import OFFLOADS
from unipruning_core.search.modes import MODES

if TYPE_CHECKING:
    from unipruning_core.search.settings import Settings

MOST_RANKS = 1 << 16
A_NODE = (1, 2, 4, 8)  # ranks on each node, where their number is to be chosen
AUTO, ON_DEVICE, IN_HOST, ON_DISK = OFFLOADS


@dataclass(frozen=True)
class Wanted:
    """How a search is to lie over processes and memories; None and "auto" for what is to be chosen.

    Raises:
        ConfigError: a number is out of range, or the mode cannot be divided.
    """

    settings: Settings
    ranks: int | None = None
    nodes: int = 1
    offload: str = AUTO
    recomputation: str = AUTO
    memory: int | None = None  # bytes of a device; None if it is not known, and nothing is chosen
    on_host: bool = False  # whether the device is the host itself, whose memory is no other place

    def __post_init__(self) -> None:
        for flag, number in (("--ranks", self.ranks), ("--nodes", self.nodes)):
            if number is not None and not 1 <= number <= MOST_RANKS:
                raise ConfigError(f"{flag} must be from 1 to {MOST_RANKS}, not {number}")
        if self.ranks is not None and self.ranks % self.nodes:
            raise ConfigError(
                f"--ranks {self.ranks} cannot be the same number on each of {self.nodes} nodes; choose a multiple of "
                f"{self.nodes}"
            )
        if self.on_host and self.offload == IN_HOST:
            raise ConfigError("--offload cpu moves nothing where the backend computes in the host's memory; use disk")
        asked = {
            "--ranks": (self.ranks or 1) > 1,
            "--nodes": self.nodes > 1,
            "--offload": self.offload in (IN_HOST, ON_DISK),
        }
        if not self.settings.offloads and (flags := [flag for flag, given in asked.items() if given]):
            modes = " or ".join(name for name, kind in MODES.items() if kind.offloads)
            raise ConfigError(
                f"the state of --mode {self.settings.mode} is planned for one process, on the device; use --mode "
                f"{modes} with {' and '.join(flags)}"
            )

    @property
    def numbers(self) -> list[int]:
        """The numbers of ranks to choose from, the smallest first."""
        if self.ranks is not None:
            return [self.ranks]
        if self.memory is None or not self.settings.offloads:
            return [self.nodes]
        return [self.nodes * on_each for on_each in A_NODE]

    @property
    def offloads(self) -> list[str]:
        """The places of weights and state to choose from, the fastest first."""
        if self.offload != AUTO:
            return [self.offload]
        if self.memory is None or not self.settings.offloads:
            return [ON_DEVICE]
        return [ON_DEVICE, ON_DISK if self.on_host else IN_HOST]

    @property
    def recomputations(self) -> list[bool]:
        """Whether activations are computed again, by choice, the faster first."""
        if self.recomputation != AUTO:
            return [self.recomputation == "on"]
        return [False, True] if self.memory is not None and self.settings.follows_loss else [False]

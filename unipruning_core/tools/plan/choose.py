"""The smallest layout of a search that fits devices of some memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.models.memory import GIB
from unipruning_core.tools.plan.layout import Layout

if TYPE_CHECKING:
    from unipruning_core.tools.plan.layout import Ranks
    from unipruning_core.tools.plan.wanted import Wanted


def choose(search: Ranks, wanted: Wanted) -> Layout:
    """Return the first layout that fits; activations computed again before more ranks, and those before an offload.

    Raises:
        ConfigError: none does.
    """
    layouts = [
        Layout(ranks, wanted.nodes, offload, recomputes)
        for offload in wanted.offloads
        for ranks in wanted.numbers
        for recomputes in wanted.recomputations
    ]
    if wanted.memory is None:
        return layouts[0]
    peaks = [search.rank(layout).peak for layout in layouts]
    for layout, peak in zip(layouts, peaks, strict=True):
        if peak <= wanted.memory:
            return layout
    least = min(peaks)
    raise ConfigError(
        f"the search does not fit --device-memory {wanted.memory / GIB:.1f} GiB: it needs at least {least / GIB:.1f} "
        f"GiB a device, with {described(layouts[peaks.index(least)])}; use a shorter --seq-len, more --ranks, --mode "
        "frozen, or devices with more memory"
    )


def described(layout: Layout) -> str:
    """Return a layout in words."""
    ranks = f"{layout.ranks} rank{'s' * (layout.ranks > 1)}"
    nodes = f" on {layout.nodes} nodes" if layout.nodes > 1 else ""
    places = {"none": "", "cpu": ", weights and state in the host's memory", "disk": ", weights and state on disk"}
    again = ", activations computed again" if layout.recomputes else ""
    return ranks + nodes + places[layout.offload] + again

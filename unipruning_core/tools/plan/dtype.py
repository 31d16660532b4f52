"""The dtype in which a planned search loads the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unipruning_core.errors import BackendNotFoundError, BackendUnavailableError
from unipruning_core.models.loading import dtype_name
from unipruning_core.registry import Catalogue

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.models.outline import Outline


def as_loaded(outline: Outline, backend: str | None) -> tuple[Outline, str | None]:
    """Return the outline in the dtype that a backend chooses, and a remark where that is not the stored one.

    A backend that cannot run here is not asked.  Without a name the stored dtype stays, and the remark is of the
    backend that a search would take here.
    """
    chosen = _runnable(backend)
    if chosen is None or (loaded := chosen.loading_dtype(outline.stored)) == outline.stored:
        return replace(outline, dtype=outline.stored), None
    was, now = dtype_name(outline.stored), dtype_name(loaded)
    if backend is not None:
        return replace(outline, dtype=loaded), f"stored in {was}, in which this device is slow; --dtype {was} keeps it"
    return replace(outline, dtype=outline.stored), (
        f"a search on this machine, with backend {chosen.name}, loads it in {now}; --backend {chosen.name} plans that"
    )


def _runnable(name: str | None) -> Backend | None:
    try:
        return Catalogue().select(name)
    except (BackendNotFoundError, BackendUnavailableError):
        return None

"""What Python users may pass, checked: settings, sparsities and scores in several forms, and keywords that apply."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from unipruning_core.errors import ConfigError
from unipruning_core.jobs.opened import OnDisk
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.loading import ModelChoice
from unipruning_core.search.choice import settings_of
from unipruning_core.search.intervals import SAVE_EVERY
from unipruning_core.search.run_folder import Run
from unipruning_core.search.settings import Settings
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity

if TYPE_CHECKING:
    from unipruning_core.progress import Progress
    from unipruning_core.projection.decide import Scores
    from unipruning_core.sparsity.parse import Sparsity

    Named: TypeAlias = "str | os.PathLike[str]"  # a folder, or a hub id
    # files, a data set on the hub, texts in memory, or names with the weights of a mixture
    Texts: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Mapping[str, float]"
    Ratios: TypeAlias = "str | Sparsity | Sequence[str | Sparsity]"


def as_settings(mode: str | Settings | None, values: dict[str, Any]) -> Settings:
    """Return the settings of a mode, given by name with values, or as they are."""
    if not isinstance(mode, Settings):
        return settings_of(mode, values)
    if values:
        raise ConfigError(f"settings belong inside the {type(mode).__name__} passed as mode: {', '.join(values)}")
    return mode


def as_sparsities(given: Ratios) -> list[Sparsity]:
    """Parse one sparsity or several, each once."""
    several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
    parsed = [parse_sparsity(sparsity) if isinstance(sparsity, str) else sparsity for sparsity in several]
    check_distinct(parsed)
    return parsed


def single(sparsities: list[Sparsity]) -> Sparsity:
    """Return the only sparsity that a model in memory can take."""
    if len(sparsities) > 1:
        n = len(sparsities)
        raise ConfigError(f"a model in memory takes one sparsity, not {n}; call search() once and project() for each")
    return sparsities[0]


def as_scores(scores: Named | Scores, *, compare: bool = True) -> Scores:
    """Open a run folder, or return other scores as they are; without ``compare`` its checksums are left for later."""
    return Run.open(scores, compare=compare) if isinstance(scores, str | os.PathLike) else scores


def refuse_on_disk_options(
    out: object = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    save_every: float | str = SAVE_EVERY,
    revision: str | None = None,
    *,
    run: object = None,
) -> None:
    """Refuse what a model in memory has no use for, where it differs from the default."""
    given = {
        "out": out is not None,
        "run": run is not None,
        "dtype": dtype != "auto",
        "trust_remote_code": trust_remote_code,
        "overwrite": overwrite,
        "revision": revision is not None,
        "save_every": save_every != SAVE_EVERY,
    }
    if any(given.values()):
        name = next(name for name, differs in given.items() if differs)
        raise ConfigError(f"{name}=... is for a model on disk; omit it for a model in memory")


def open_on_disk(
    model: Named,
    tokenizer: Any,
    backend: str | None,
    progress: Progress,
    dtype: str,
    trust_remote_code: bool,
    revision: str | None = None,
    targets: TargetChoice = BY_ROLE,
) -> OnDisk:
    """A model on disk, which brings its own tokenizer unless another is named."""
    if tokenizer is not None and not isinstance(tokenizer, str | os.PathLike):
        raise ConfigError(
            f"the tokenizer of a model on disk is a folder or a hub id, not a {type(tokenizer).__name__}; omit "
            "tokenizer=... for the model's own"
        )
    named = None if tokenizer is None else os.fspath(tokenizer)
    return OnDisk(ModelChoice(os.fspath(model), dtype, trust_remote_code, named, targets, revision), backend, progress)

"""The Python functions for what comes after a search: masks from its scores, and what they cost in perplexity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.jobs import in_memory, on_disk
from unipruning_core.jobs.arguments import (
    as_scores,
    as_sparsities,
    open_on_disk,
    refuse_on_disk_options,
    single,
)
from unipruning_core.jobs.in_memory import InMemory
from unipruning_core.models.choice import BY_ROLE
from unipruning_core.progress import Progress, as_progress
from unipruning_core.sparsity.per_row import check_keep_per_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.data.perplexity import Perplexity
    from unipruning_core.jobs.arguments import Named, Ratios, Texts
    from unipruning_core.jobs.masks import Masks
    from unipruning_core.projection.decide import Scores
    from unipruning_core.projection.project import Projected


@overload
def project(
    model: Named,
    scores: Named | Scores,
    *,
    sparsity: Ratios,
    out: Named,
    keep_per_row: int = 0,
    backend: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> list[Projected]: ...
@overload
def project(
    model: PreTrainedModel,
    scores: Named | Scores,
    *,
    sparsity: Ratios,
    keep_per_row: int = 0,
    backend: str | None = None,
    progress: bool | Progress = True,
) -> Masks: ...
def project(
    model: Named | PreTrainedModel,
    scores: Named | Scores,
    *,
    sparsity: Ratios,
    out: Named | None = None,
    keep_per_row: int = 0,
    backend: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> list[Projected] | Masks:
    """Keep the weights with the largest scores, of a search or your own; counts are exact, ties go to the lower index.

    Args:
        model, sparsity, keep_per_row: as in ``prune``.
        scores: a run folder, the result of ``search``, or any object with the members of ``Scores``.
        out: the output folder for a model on disk; with several sparsities, each gets a subfolder.

    Returns:
        As in ``prune``.

    Raises:
        UnipruningError: the scores are for another model, a sparsity does not fit, or the output cannot be written.
    """
    sparsities, shown = as_sparsities(sparsity), as_progress(progress)
    check_keep_per_row(keep_per_row, sparsities)
    if not isinstance(model, str | os.PathLike):
        refuse_on_disk_options(out, "auto", trust_remote_code, overwrite, revision=revision)
        one, found = single(sparsities), as_scores(scores)
        live = InMemory(model, None, backend, shown, getattr(found, "target_choice", BY_ROLE))
        return in_memory.project_in_memory(live, found, one, keep_per_row)
    if out is None:
        raise ConfigError("a model on disk needs an output folder; pass out=...")
    disk = open_on_disk(model, None, backend, shown, "auto", trust_remote_code, revision)
    found = as_scores(scores, compare=False)
    named = isinstance(scores, str | os.PathLike)
    how: dict[str, Any] = {"keep_per_row": keep_per_row, "overwrite": overwrite, "compare": named}
    return on_disk.project_on_disk(disk, found, sparsities, Path(out), **how)


def perplexity(
    model: Named | PreTrainedModel,
    tokenizer: Any = None,
    *,
    data: Texts = "wikitext2",
    seq_len: int | None = None,
    windows: int | None = None,
    split: str | None = None,
    text_column: str | None = None,
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool | Progress = True,
) -> Perplexity:
    r"""Measure the perplexity of a model on a text, by the protocol of published pruning results.

    .. math:: \exp \frac{1}{K} \sum_{k=1}^{K} \frac{1}{L-1} \sum_{t=2}^{L} -\log p(x_{k,t} \mid x_{k,1..t-1})

    Args:
        model: a folder, a hub id, or a model in memory with its ``tokenizer``.
        tokenizer, data: as in ``prune``, but with the default split "test".
        seq_len: L, tokens per window (default: 2048, or all positions of a model with fewer).
        windows: K, number of windows from the start of the text (default: all).

    Returns:
        The perplexity, the mean negative log-likelihood in nats per token, and that of each window.

    Raises:
        UnipruningError: says in one sentence what is wrong, before the model is loaded if possible.
    """
    text, shown = TextChoice(data, split, text_column), as_progress(progress)
    if not isinstance(model, str | os.PathLike):
        refuse_on_disk_options(None, dtype, trust_remote_code, revision=revision)
        live = InMemory(model, tokenizer, backend, shown)
        return in_memory.perplexity_in_memory(live, text, seq_len=seq_len, windows=windows)
    disk = open_on_disk(model, tokenizer, backend, shown, dtype, trust_remote_code, revision)
    return on_disk.perplexity_on_disk(disk, text, seq_len=seq_len, windows=windows)

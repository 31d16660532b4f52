"""The Python functions that the command line is built on: its flags as keywords, for models on disk or in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.jobs import in_memory, on_disk
from unipruning_core.jobs.arguments import (
    as_settings,
    as_sparsities,
    open_on_disk,
    refuse_on_disk_options,
    single,
)
from unipruning_core.jobs.found_scores import FoundScores
from unipruning_core.jobs.in_memory import InMemory
from unipruning_core.models.choice import TargetChoice
from unipruning_core.progress import Progress, as_progress
from unipruning_core.search.intervals import SAVE_EVERY
from unipruning_core.search.run_folder import Run
from unipruning_core.search.settings import Settings
from unipruning_core.sparsity.per_row import check_keep_per_row
from unipruning_core.storage.outputs import folder_beside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.data.calibration import Packing
    from unipruning_core.jobs.arguments import Named, Ratios, Texts
    from unipruning_core.jobs.masks import Masks
    from unipruning_core.projection.project import Projected


@overload
def prune(
    model: Named, tokenizer: Named | None = None, *, sparsity: Ratios, out: Named, **options: Any
) -> list[Projected]: ...
@overload
def prune(model: PreTrainedModel, tokenizer: Any, *, sparsity: Ratios, **options: Any) -> Masks: ...
def prune(
    model: Named | PreTrainedModel,
    tokenizer: Any = None,
    *,
    sparsity: Ratios,
    data: Texts = "c4",
    out: Named | None = None,
    run: Named | None = None,
    mode: str | Settings | None = None,
    samples: int = 128,
    seq_len: int | None = None,
    packing: Packing = "packed",
    split: str | None = None,
    text_column: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    keep_per_row: int = 0,
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    save_every: float | str = SAVE_EVERY,
    checkpoint_activations: str = "auto",
    copies: int = 1,
    offload: str = "auto",
    max_memory: str | int | None = None,
    skip_nonfinite: bool = False,
    compile: bool = False,
    progress: bool | Progress = True,
    **settings: Any,
) -> list[Projected] | Masks:
    """Search a model for the saliency of its weights, and prune it.

    Args:
        model: a folder with safetensors weights or a hub id, which is pruned into ``out``; or a ``transformers`` model
            in memory, which is masked in place: pruned weights become 0, kept weights are not touched.
        tokenizer: the tokenizer of a model in memory; for one on disk a folder or a hub id (default: the model's own).
        sparsity: "60%", "60%/row", "60%/global", "2:4", "@budget.json", "2:4+dense@45%"; a list for a model on disk.
        data: calibration text: a file, folder or pattern, "wikitext2", "c4", a data set on the hub, or a list of
            strings; or a mixture, as their names with weights, such as ``{"a.jsonl": 0.7, "b.txt": 0.3}``.
        out: the output folder; required for a model on disk, not allowed for one in memory.
        run: the run folder that keeps the search of a model on disk (default: ``out`` with "-run" appended).
        mode: "feedback" (default), "drift", "frozen", "coupled", or a settings object, such as
            ``FrozenSettings(metric="wanda")``.
        samples: calibration samples, each of ``seq_len`` tokens (default: 2048, or all positions if a model has fewer).
        packing: "packed" joins the documents and cuts them into samples; "document" takes one document per sample.
        split: split of a data set (default: "train").
        text_column: the column that holds text, conversations or token ids (default: "text", "messages", ...).
        include: patterns of names, such as ``*.mlp.*`` or ``re:REGEX``; only linear layers that match are pruned,
            wherever they are (default: those of the decoder blocks, without routers and the like).
        exclude: patterns of what stays dense, whatever else is included.
        keep_per_row: K, so many of the largest scores of every output row are kept, with the same total; the command
            line's ``--keep-per-row``.
        backend: a name that ``unipruning backends`` lists (default: $UNIPRUNING_BACKEND, or else the best).
        dtype: dtype to load the weights in: "auto", "float32", "bfloat16" or "float16".
        trust_remote_code: run Python code that comes with the model.
        revision: branch, tag or commit of a model on the hub (default: its newest).
        overwrite: replace what an earlier call wrote.
        save_every: time between saved states of an unfinished search on disk, in seconds or as in "10min", or the
            number of samples, as in "32samples".
        checkpoint_activations: "on" computes activations again, for less memory; "auto" if they seem not to fit.
        copies: copies of a model on disk over the ranks that a launcher started, each divided among an equal number.
        offload: where weights and state of a model on disk lie: "none", "cpu" or "disk"; "auto" if they do not fit.
        max_memory: most bytes of each device to use, as a number or as in "22GiB" (default: what is free).
        compile: run the decoder blocks compiled by ``torch.compile``, with one note and as they are where that fails.
        skip_nonfinite: leave out what is NaN or infinite, and say what; without it the first one ends the search.
        progress: whether to show bars and notes; or a ``Progress`` of your own.
        settings: settings of the mode, named as its flags, such as ``learning_rate=1e-4`` or ``seed=1``.

    Returns:
        What was written for each sparsity; or of a model in memory the masks by parameter name, bool, in the
        parameter's shape, on the host; True means kept.

    Raises:
        UnipruningError: says in one sentence what is wrong, before any expensive work if possible.

    Source: mirror descent on one dual variable per weight (UniPruning, arXiv 2510.03291); see ``docs/using.md``.
    """
    chosen, shown, sparsities = as_settings(mode, settings), as_progress(progress), as_sparsities(sparsity)
    check_keep_per_row(keep_per_row, sparsities)
    targets = TargetChoice.of(include, exclude)
    text = DataChoice(TextChoice(data, split, text_column), samples, seq_len, packing)
    how: dict[str, Any] = {"checkpoint_activations": checkpoint_activations, "skip_nonfinite": skip_nonfinite}
    how["compile"] = compile
    if not isinstance(model, str | os.PathLike):
        refuse_on_disk_options(out, dtype, trust_remote_code, overwrite, save_every, revision, run=run)
        one, live = single(sparsities), InMemory(model, tokenizer, backend, shown, targets)
        live.check(sparsities, chosen, keep_per_row=keep_per_row)
        found = in_memory.search_in_memory(live, text, chosen, **how)
        return in_memory.project_in_memory(live, found, one, keep_per_row)
    if out is None:
        raise ConfigError("a model on disk needs an output folder; pass out=...")
    folder = Path(out)
    return on_disk.prune_on_disk(
        open_on_disk(model, tokenizer, backend, shown, dtype, trust_remote_code, revision, targets),
        text,
        chosen,
        sparsities,
        folder_beside(folder) if run is None else Path(run),
        folder,
        keep_per_row=keep_per_row,
        overwrite=overwrite,
        save_every=save_every,
        copies=copies,
        offload=offload,
        max_memory=max_memory,
        **how,
    )


@overload
def search(model: Named, tokenizer: Named | None = None, *, out: Named, **options: Any) -> Run: ...
@overload
def search(model: PreTrainedModel, tokenizer: Any, **options: Any) -> FoundScores: ...
def search(
    model: Named | PreTrainedModel,
    tokenizer: Any = None,
    *,
    data: Texts = "c4",
    out: Named | None = None,
    mode: str | Settings | None = None,
    samples: int = 128,
    seq_len: int | None = None,
    packing: Packing = "packed",
    split: str | None = None,
    text_column: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    save_every: float | str = SAVE_EVERY,
    checkpoint_activations: str = "auto",
    copies: int = 1,
    offload: str = "auto",
    max_memory: str | int | None = None,
    skip_nonfinite: bool = False,
    compile: bool = False,
    progress: bool | Progress = True,
    **settings: Any,
) -> Run | FoundScores:
    """Find the saliency Γ of every target weight, once for all sparsities.

    Args:
        out: the run folder to write, which ``project`` and the command line read; required for a model on disk.

    The other arguments are those of ``prune``.  A model in memory is left unchanged.

    Returns:
        The scores to pass to ``project``, for each target the magnitude of Γ, (out, in), float32.

    Raises:
        UnipruningError: says in one sentence what is wrong, before any expensive work if possible.
    """
    chosen, shown, targets = as_settings(mode, settings), as_progress(progress), TargetChoice.of(include, exclude)
    text = DataChoice(TextChoice(data, split, text_column), samples, seq_len, packing)
    how: dict[str, Any] = {"checkpoint_activations": checkpoint_activations, "skip_nonfinite": skip_nonfinite}
    how["compile"] = compile
    if not isinstance(model, str | os.PathLike):
        refuse_on_disk_options(out, dtype, trust_remote_code, overwrite, save_every, revision)
        live = InMemory(model, tokenizer, backend, shown, targets)
        return in_memory.search_in_memory(live, text, chosen, **how)
    if out is None:
        raise ConfigError("the search of a model on disk needs a run folder; pass out=...")
    with on_disk.what_is_kept(Path(out)):
        return on_disk.search_on_disk(
            open_on_disk(model, tokenizer, backend, shown, dtype, trust_remote_code, revision, targets),
            text,
            chosen,
            Path(out),
            overwrite=overwrite,
            save_every=save_every,
            copies=copies,
            offload=offload,
            max_memory=max_memory,
            **how,
        )

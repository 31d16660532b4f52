"""What Python users call and the command line is built on: the flags as keywords, for models on disk or in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.jobs import in_memory, on_disk
from unipruning_core.jobs.in_memory import FoundScores, InMemory
from unipruning_core.jobs.prepared import OnDisk
from unipruning_core.models.loading import ModelChoice
from unipruning_core.progress import Progress, as_progress
from unipruning_core.search.choice import settings_of
from unipruning_core.search.loop import SAVE_EVERY
from unipruning_core.search.run_folder import Run
from unipruning_core.search.settings import Settings
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.data.calibration import Packing
    from unipruning_core.data.perplexity import Perplexity
    from unipruning_core.projection.decide import Scores
    from unipruning_core.projection.project import Projected
    from unipruning_core.sparsity.parse import Sparsity

    Named: TypeAlias = "str | os.PathLike[str]"  # a folder, or a name on the hub
    Texts: TypeAlias = "str | Sequence[str]"  # a file, a data set of the hub, or texts in memory
    Asked: TypeAlias = "str | Sparsity | Sequence[str | Sparsity]"


@overload
def prune(model: Named, tokenizer: None = None, *, sparsity: Asked, out: Named, **options: Any) -> list[Projected]: ...
@overload
def prune(model: PreTrainedModel, tokenizer: Any, *, sparsity: Asked, **options: Any) -> dict[str, Tensor]: ...
def prune(
    model: Named | PreTrainedModel,
    tokenizer: Any = None,
    *,
    sparsity: Asked,
    data: Texts = "c4",
    out: Named | None = None,
    run: Named | None = None,
    mode: str | Settings | None = None,
    samples: int = 128,
    seq_len: int | None = None,
    packing: Packing = "packed",
    split: str | None = None,
    text_column: str | None = None,
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    save_every: float = SAVE_EVERY,
    progress: bool | Progress = True,
    **settings: Any,
) -> list[Projected] | dict[str, Tensor]:
    """Search a model for the saliency of its weights, and prune it.

    Args:
        model: a folder with safetensors weights or a hub id, which is pruned from file to file; or a ``transformers``
            model in memory, which is masked in place: pruned weights become 0, kept weights are not touched.
        tokenizer: of a model in memory.
        sparsity: "60%", "60%/matrix", "60%/row", "60%/global", "2:4", "@budget.json", "2:4+dense@45%", or several for
            a model on disk.
        data: calibration text: a .jsonl, .parquet or text file, "wikitext2", "c4", a data set of the hub, or a list of
            strings.
        out: the folder to write; only for a model on disk, which needs it.
        run: the run folder that keeps the search (default: ``out`` with "-run" after it).
        mode: "feedback" (default), "drift", "frozen", "coupled", or the settings of one, such as
            ``FrozenSettings(metric="wanda")``.
        samples: calibration samples, of ``seq_len`` tokens each (default: 2048, or all positions of the model).
        packing: "packed" cuts the documents, end to end, to samples; "document" takes one document a sample.
        split: of a data set of the hub (default: "train").
        text_column: the column that holds the text (default: "text").
        backend: a name of ``unipruning backends`` (default: $UNIPRUNING_BACKEND, else the best).
        dtype: to load the weights in: "auto", "float32", "bfloat16" or "float16".
        trust_remote_code: run Python code that comes with the model.
        overwrite: replace what an earlier call wrote.
        save_every: seconds between two saved states of an unfinished search on disk.
        progress: show bars and notes; or a ``Progress`` of your own.
        settings: of the mode, as its flags are named, such as ``learning_rate=1e-4`` or ``seed=1``.

    Returns:
        For a model on disk, what was written for each sparsity.  For a model in memory, the masks by parameter name:
        bool, in the parameter's shape, on the host; True is kept.

    Raises:
        UnipruningError: one sentence on what is wrong, before anything expensive wherever that can be known.

    Source: mirror descent of one dual variable a weight (UniPruning, arXiv 2510.03291); ``docs/using.md`` has the
    mathematics of the modes.
    """
    chosen, shown = _settings(mode, settings), as_progress(progress)
    wanted, text = _sparsities(sparsity), DataChoice(TextChoice(data, split, text_column), samples, seq_len, packing)
    if not isinstance(model, str | os.PathLike):
        _only_on_disk(out=out, run=run)
        if len(wanted) > 1:
            raise ConfigError("a model in memory takes one sparsity; search() gives scores to project again and again")
        live = InMemory(model, tokenizer, backend, shown)
        live.check(wanted)
        return in_memory.project_in_memory(live, in_memory.search_in_memory(live, text, chosen), wanted[0])
    if out is None:
        raise ConfigError("a model on disk is pruned into a folder; pass out=...")
    folder = Path(out)
    return on_disk.prune_on_disk(
        OnDisk(ModelChoice(os.fspath(model), dtype, trust_remote_code), backend, shown),
        text,
        chosen,
        wanted,
        folder.with_name(f"{folder.name}-run") if run is None else Path(run),
        folder,
        overwrite=overwrite,
        save_every=save_every,
    )


@overload
def search(model: Named, tokenizer: None = None, *, out: Named, **options: Any) -> Run: ...
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
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    save_every: float = SAVE_EVERY,
    progress: bool | Progress = True,
    **settings: Any,
) -> Run | FoundScores:
    """Find the saliency Γ of every target weight, once for all sparsities.

    Args:
        out: the run folder to write, from which ``project`` and the command line read; a model on disk needs it.

    The others are those of ``prune``.  A model in memory is afterwards as it was.

    Returns:
        Scores: for each target a float32 matrix (out, in), the magnitude of Γ.  Hand them to ``project``.

    Raises:
        UnipruningError: one sentence on what is wrong, before anything expensive wherever that can be known.
    """
    chosen, shown = _settings(mode, settings), as_progress(progress)
    text = DataChoice(TextChoice(data, split, text_column), samples, seq_len, packing)
    if not isinstance(model, str | os.PathLike):
        _only_on_disk(out=out)
        return in_memory.search_in_memory(InMemory(model, tokenizer, backend, shown), text, chosen)
    if out is None:
        raise ConfigError("the search of a model on disk is kept in a run folder; pass out=...")
    return on_disk.search_on_disk(
        OnDisk(ModelChoice(os.fspath(model), dtype, trust_remote_code), backend, shown),
        text,
        chosen,
        Path(out),
        overwrite=overwrite,
        save_every=save_every,
    )


@overload
def project(
    model: Named,
    scores: Named | Scores,
    *,
    sparsity: Asked,
    out: Named,
    backend: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> list[Projected]: ...
@overload
def project(
    model: PreTrainedModel,
    scores: Named | Scores,
    *,
    sparsity: Asked,
    backend: str | None = None,
    progress: bool | Progress = True,
) -> dict[str, Tensor]: ...
def project(
    model: Named | PreTrainedModel,
    scores: Named | Scores,
    *,
    sparsity: Asked,
    out: Named | None = None,
    backend: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> list[Projected] | dict[str, Tensor]:
    """Prune a model by scores: those of a search, or your own.

    Of each target the weights with the largest scores stay, with exact counts; ties go to the lower index.

    Args:
        model: as in ``prune``.
        scores: a run folder, what ``search`` returned, or any object with the members of ``Scores``.
        sparsity: as in ``prune``; several for a model on disk.
        out: the folder to write, for a model on disk; for several sparsities each gets a folder of its own inside.

    Returns:
        As ``prune``.

    Raises:
        UnipruningError: the scores are of another model, a sparsity does not fit, or the output cannot be written.
    """
    wanted, shown = _sparsities(sparsity), as_progress(progress)
    if not isinstance(model, str | os.PathLike):
        _only_on_disk(out=out)
        if len(wanted) > 1:
            raise ConfigError("a model in memory takes one sparsity; pass one")
        return in_memory.project_in_memory(InMemory(model, None, backend, shown), _scores(scores), wanted[0])
    if out is None:
        raise ConfigError("a model on disk is pruned into a folder; pass out=...")
    disk = OnDisk(ModelChoice(os.fspath(model), trust_remote_code=trust_remote_code), backend, shown)
    return on_disk.project_on_disk(disk, _scores(scores), wanted, Path(out), overwrite=overwrite)


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
    progress: bool | Progress = True,
) -> Perplexity:
    r"""Measure the perplexity of a model on a text, by the protocol of published pruning results.

    .. math:: \exp \frac{1}{K} \sum_{k=1}^{K} \frac{1}{L-1} \sum_{t=2}^{L} -\log p(x_{k,t} \mid x_{k,1..t-1})

    Args:
        model: a folder, a hub id, or a model in memory with its ``tokenizer``.
        data: as in ``prune``; its split is "test" where none is named.
        seq_len: L, tokens a window (default: 2048, or all positions of the model).
        windows: K, the first so many (default: the whole text).

    Returns:
        The perplexity, the mean negative log-likelihood in nats a token, and that of each window.

    Raises:
        UnipruningError: one sentence on what is wrong, before the model is loaded wherever that can be known.
    """
    text, shown = TextChoice(data, split, text_column), as_progress(progress)
    if not isinstance(model, str | os.PathLike):
        live = InMemory(model, tokenizer, backend, shown)
        return in_memory.perplexity_in_memory(live, text, seq_len=seq_len, windows=windows)
    disk = OnDisk(ModelChoice(os.fspath(model), dtype, trust_remote_code), backend, shown)
    return on_disk.perplexity_on_disk(disk, text, seq_len=seq_len, windows=windows)


def _settings(mode: str | Settings | None, values: dict[str, Any]) -> Settings:
    if not isinstance(mode, Settings):
        return settings_of(mode, values)
    if values:
        raise ConfigError(f"settings go into mode, which is {type(mode).__name__} already: {', '.join(values)}")
    return mode


def _sparsities(asked: Asked) -> list[Sparsity]:
    several = [asked] if isinstance(asked, str) or not isinstance(asked, Sequence) else asked
    parsed = [parse_sparsity(one) if isinstance(one, str) else one for one in several]
    check_distinct(parsed)
    return parsed


def _scores(scores: Named | Scores) -> Scores:
    return Run.open(scores) if isinstance(scores, str | os.PathLike) else scores


def _only_on_disk(**folders: object) -> None:
    if given := [name for name, folder in folders.items() if folder is not None]:
        raise ConfigError(f"{given[0]}=... is for a model on disk; a model in memory is pruned where it is")

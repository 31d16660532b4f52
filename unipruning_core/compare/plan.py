"""What a comparison is to measure, and every check of it, made before anything expensive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import ConfigError, DataError
from unipruning_core.progress import Progress

if TYPE_CHECKING:
    from unipruning_core.compare.methods import Method
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.models.loading import ModelChoice
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.parse import Sparsity


@dataclass(frozen=True)
class CompareChoice:
    """The user's choices."""

    model: ModelChoice
    backend: str | None
    methods: Sequence[Method]
    sparsities: Sequence[Sparsity]
    seeds: Sequence[int]
    data: DataChoice
    eval_text: TextChoice
    windows: int | None
    eval_seq_len: int | None
    out: Path
    keep: str = "runs"  # "results", "runs" or "checkpoints", each including those before it
    ranks: int = 1  # processes that share each search, projection and evaluation
    skip_nonfinite: bool = False  # in searches


@dataclass(frozen=True)
class ComparisonPlan:
    """Everything that decides the table's numbers, looked up once to recognise existing results."""

    common: dict[str, Any]  # model, dtype, backend and versions
    text_sha256: str
    eval_sha256: str
    seq_len: int
    eval_seq_len: int
    windows: int
    settings: dict[str, dict[str, Any]]  # of each method's search, by label, seed 0
    weights: dict[str, int]  # of the targets, of the model, and of the model outside embeddings
    revision: str | None = None  # commit of a model on the hub, for all commands


def make_plan(choice: CompareChoice) -> ComparisonPlan:
    """Check model, texts and methods as the searches will, without loading weights.

    Raises:
        UnipruningError: anything wrong, as one sentence.
    """
    from unipruning_core.data.calibration import calibration_batches
    from unipruning_core.data.encoding import joined_ids
    from unipruning_core.data.text import SEPARATOR
    from unipruning_core.data.token_ids import id_tensor
    from unipruning_core.jobs.opened import OnDisk
    from unipruning_core.models.hub import local_folder
    from unipruning_core.models.loading import dtype_name
    from unipruning_core.search.settings import Settings

    searched = [
        search for method in choice.methods for search in (method.scores, method.budget_source) if search is not None
    ]
    settings = {method.label: settings_of_method(method) for method in searched}
    model = OnDisk(choice.model, choice.backend, Progress())
    seq_len, eval_seq_len = model.seq_len(choice.data.seq_len), model.seq_len(choice.eval_seq_len)
    model.check([*choice.sparsities, *budgeted(choice)])
    for chosen_settings in settings.values():
        if isinstance(chosen_settings, Settings):
            chosen_settings.check(model.targets)

    text = choice.data.text.load("train")
    calibrations = {
        (m.calibration("samples", choice.data.samples), m.calibration("seq_len", seq_len)) for m in choice.methods
    }
    for samples, length in sorted(calibrations):
        calibration = calibration_batches(
            text,
            model.tokenizer,
            samples=samples,
            seq_len=model.seq_len(length),
            seed=choice.seeds[0],
            packing=choice.data.packing,
        )
        model.check_ids(calibration.batches, text)
    eval_text = choice.eval_text.load("test")
    needed = None if choice.windows is None else max(choice.windows, 1) * eval_seq_len
    ids = id_tensor(joined_ids(model.tokenizer, eval_text.documents, SEPARATOR, needed), eval_text.source)
    model.check_ids([ids], eval_text)
    available = len(ids) // eval_seq_len
    windows = available if choice.windows is None else choice.windows
    if windows < 1 <= available:
        raise ConfigError(f"--windows must be 1 or more, not {windows}")
    if not 1 <= windows <= available:
        wanted = f"{max(windows, 1)} windows of {eval_seq_len} tokens are needed"
        fewer = "fewer --windows, " if windows > 1 else ""
        raise DataError(
            f"{wanted}, but {eval_text.source!r} fills {available}; pass {fewer}a shorter --eval-seq-len or more text"
        )
    common: dict[str, Any] = {
        "model": model.checkpoint.fingerprint(),
        "dtype": dtype_name(model.dtype),
        "backend": model.backend.name,
        "versions": {package: version(package) for package in ("unipruning", "torch", "transformers")},
    }
    if choice.model.tokenizer is not None:
        common["tokenizer"] = choice.model.tokenizer
    # named only where there is a choice, so that results of before there was one count
    if choice.ranks > 1:
        common["ranks"] = choice.ranks  # sums are added in another order
    if choice.model.targets:
        common["targets"] = choice.model.targets.to_json()
    weights = {
        "targets": sum(target.size for target in model.targets),
        "model": model.size.weights,
        "outside_embeddings": model.size.outside,
    }
    revision = model.checkpoint.revision if local_folder(choice.model.name) is None else None
    described = {label: chosen_settings.to_json() for label, chosen_settings in settings.items()}
    return ComparisonPlan(
        common, text.sha256, eval_text.sha256, seq_len, eval_seq_len, windows, described, weights, revision
    )


def budgeted(choice: CompareChoice) -> list[Sparsity]:
    """Return the sparsities of all rows, with the budgets of their methods."""
    found = (method.with_budget(sparsity) for method in choice.methods for sparsity in choice.sparsities)
    return [sparsity for sparsity in found if sparsity is not None]


def settings_of_method(method: Method) -> Settings | SparseGptSettings:
    """Return the settings of a method's search, or of a method without a search, with seed 0.

    Raises:
        ConfigError: a setting does not exist, is of another type or out of range.
    """
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.search.choice import built
    from unipruning_core.search.modes import MODES

    values = dict(method.settings)
    kind: type[Any] = SparseGptSettings if method.spec.changes_weights else MODES[values.pop("mode")]
    settings: Settings | SparseGptSettings = built(kind, values, f"method {method.label!r}", dashes=False)
    return settings

"""What a comparison was asked for, and everything that can be wrong with it, found before anything expensive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.data.text import SEPARATOR, load_text, token_ids
from unipruning_core.errors import DataError, UnipruningError
from unipruning_core.progress import Progress

if TYPE_CHECKING:
    from unipruning_core.compare.methods import Method
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.data.calibration import Packing
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.forms import Sparsity


@dataclass(frozen=True)
class TextChoice:
    """A text by name."""

    source: str
    split: str | None
    field: str | None

    @property
    def words(self) -> list[str]:
        """As the commands take it."""
        said = {"--split": self.split, "--field": self.field}
        return ["--data", self.source, *(word for key, value in said.items() if value for word in (key, value))]


@dataclass(frozen=True)
class CompareChoice:
    """What the user asked for."""

    model: str
    dtype: str
    trust_remote_code: bool
    backend: str | None
    methods: Sequence[Method]
    sparsities: Sequence[Sparsity]
    seeds: Sequence[int]
    text: TextChoice
    samples: int
    seq_len: int | None
    packing: Packing
    eval_text: TextChoice
    windows: int | None
    eval_seq_len: int | None
    out: Path
    keep: str = "runs"  # of "results", "runs" and "checkpoints", each with those before it


@dataclass(frozen=True)
class Plan:
    """What decides every number of the table; looked up once, so that results can be known again."""

    common: dict[str, Any]  # model, dtype, backend and versions
    text_sha256: str
    eval_sha256: str
    seq_len: int
    eval_seq_len: int
    windows: int
    settings: dict[str, dict[str, Any]]  # of each method's search, by label, seed 0


def make_plan(choice: CompareChoice) -> Plan:
    """Look at model, texts and methods as the searches will; loads no weight.

    Raises:
        UnipruningError: whatever was wrong, as one sentence.
    """
    try:
        return _plan(choice)
    # between processes an error is rebuilt from its message alone
    except UnipruningError as error:
        raise UnipruningError(str(error)) from None


def _plan(choice: CompareChoice) -> Plan:
    from unipruning_core.data.calibration import calibration_batches
    from unipruning_core.models.hub import resolve_model
    from unipruning_core.models.loading import (
        ModelChoice,
        choose_dtype,
        load_config_and_tokenizer,
        outline,
        window_length,
    )
    from unipruning_core.registry import Catalogue
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Checkpoint

    searched = [one for method in choice.methods for one in (method.scores, method.judge) if one is not None]
    settings = {method.label: settings_of_method(method) for method in searched}
    backend = Catalogue().select(choice.backend)
    model = ModelChoice(choice.model, choice.dtype, choice.trust_remote_code)
    checkpoint = Checkpoint.open(resolve_model(choice.model, trust_remote_code=choice.trust_remote_code))
    dtype = choose_dtype(model, checkpoint, backend, Progress())
    config, tokenizer = load_config_and_tokenizer(checkpoint, model)
    seq_len, eval_seq_len = window_length(config, choice.seq_len), window_length(config, choice.eval_seq_len)
    targets, _ = outline(checkpoint, config, model)
    for sparsity in choice.sparsities:
        sparsity.check(targets)
    for chosen in settings.values():
        if isinstance(chosen, Settings):
            chosen.check(targets)

    text = load_text(choice.text.source, split=choice.text.split, field=choice.text.field)
    wanted = {(m.calibration("samples", choice.samples), m.calibration("seq_len", seq_len)) for m in choice.methods}
    for samples, length in sorted(wanted):
        calibration_batches(
            text,
            tokenizer,
            samples=samples,
            seq_len=window_length(config, length),
            seed=choice.seeds[0],
            packing=choice.packing,
        )
    eval_text = load_text(choice.eval_text.source, split=choice.eval_text.split or "test", field=choice.eval_text.field)
    available = len(token_ids(tokenizer, SEPARATOR.join(eval_text.documents))) // eval_seq_len
    windows = available if choice.windows is None else choice.windows
    if not 1 <= windows <= available:
        raise DataError(
            f"{windows} windows of {eval_seq_len} tokens are wanted, but {eval_text.source!r} fills {available}; "
            "give fewer --windows, a shorter --eval-seq-len or more text"
        )
    common = {
        "model": checkpoint.fingerprint(),
        "dtype": str(dtype).removeprefix("torch."),
        "backend": backend.name,
        "versions": {package: version(package) for package in ("unipruning", "torch", "transformers")},
    }
    described = {label: chosen.to_json() for label, chosen in settings.items()}
    return Plan(common, text.sha256, eval_text.sha256, seq_len, eval_seq_len, windows, described)


def settings_of_method(method: Method) -> Settings | SparseGptSettings:
    """The settings of a method's search, or of the method that needs none, with seed 0.

    Raises:
        ConfigError: a setting does not exist, is of another type or out of range.
    """
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.search.choice import built
    from unipruning_core.search.modes import MODES

    values = dict(method.settings)
    kind: type[Any] = SparseGptSettings if method.recipe.changes_weights else MODES[values.pop("mode")]
    settings: Settings | SparseGptSettings = built(kind, values, f"method {method.label!r}", dashes=False)
    return settings

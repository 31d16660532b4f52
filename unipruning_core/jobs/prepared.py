"""What every job needs from a model, opened once, so that all jobs make the same checks in the same order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unipruning_core.data.calibration import Calibration, DataChoice, calibration_batches, shares
from unipruning_core.data.perplexity import Windows, cut
from unipruning_core.data.token_ids import check_ids
from unipruning_core.models.loading import (
    dtype_name,
    embedding_rows,
)
from unipruning_core.models.positions import positions_of, window_length
from unipruning_core.models.size import ModelSize
from unipruning_core.progress import Progress
from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import check_fits
from unipruning_core.sparsity.per_row import check_rows_fit
from unipruning_core.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.data.text import Text, TextChoice
    from unipruning_core.models.targets import LeftOut
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.parse import Sparsity
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class Calibrated:
    """The calibration samples of a job, and their description for its records."""

    samples: Calibration
    described: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """The description with what was drawn: tokens and their fingerprint."""
        return {**self.described, "tokens": self.samples.tokens, "fingerprint": self.samples.fingerprint}


class Prepared(ABC):
    """A model and the parts of it that a job needs, each opened on first use and only once.

    Raises:
        UnipruningError: from any part, saying in one sentence what is wrong with it.
    """

    name: str  # what the user calls the model
    progress: Progress
    named_tokenizer: str | None = None  # where the tokenizer is from, unless it came with the model
    checkpoint: Checkpoint  # names, shapes and dtypes of the model's tensors

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """The requested backend, or the best one for the model."""

    @property
    @abstractmethod
    def config(self) -> PretrainedConfig:
        """The model's config."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The model's tokenizer."""

    @property
    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """The layers to prune, in checkpoint order."""

    @property
    @abstractmethod
    def left_out(self) -> tuple[LeftOut, ...]:
        """The matrices that stay dense, with the reasons."""

    @property
    @abstractmethod
    def size(self) -> ModelSize:
        """How many weights the model has."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""

    def seq_len(self, requested: int | None) -> int:
        """Return the tokens per window: as requested, or else 2048, or all positions of a model with fewer."""
        return window_length(positions_of(self.config, self.outline), requested)

    @property
    @abstractmethod
    def outline(self) -> PreTrainedModel:
        """The model, which may be without weights."""

    def check_ids(self, batches: Iterable[torch.Tensor], text: Text) -> None:
        """Refuse token ids, of this text, that the model has no embedding for."""
        vocabulary = getattr(self.config.get_text_config(), "vocab_size", None) or 0
        check_ids(batches, text.source, vocabulary, lambda: embedding_rows(self.outline), stored=text.holds_ids)

    def check(self, sparsities: Sequence[Sparsity], settings: Settings | None = None, *, keep_per_row: int = 0) -> None:
        """Refuse sparsities and settings that do not fit the targets."""
        for sparsity in sparsities:
            check_fits(sparsity, self.targets, self.size.weights)
            if settings is not None and isinstance(sparsity, Unstructured):
                sparsity = sparsity.within(settings.scope)
            check_rows_fit(keep_per_row, sparsity, self.targets, self.size.weights)
        if settings is not None:
            settings.check(self.targets)

    def calibrate(self, data: DataChoice, seed: int) -> Calibrated:
        """Read the text and cut it into samples."""
        seq_len = self.seq_len(data.seq_len)
        text = self._read(data.text, "train")
        samples = calibration_batches(
            text,
            self.tokenizer,
            samples=data.samples,
            seq_len=seq_len,
            seed=seed,
            packing=data.packing,
            progress=self.progress,
        )
        self.check_ids(samples.batches, text)
        described = {
            "source": text.source,
            "sha256": text.sha256,
            "samples": data.samples,
            "seq_len": seq_len,
            "packing": data.packing,
            "dtype": dtype_name(self.dtype),
        }
        named = {"split": data.text.split, "text_column": data.text.column, "tokenizer": self.named_tokenizer}
        described |= {name: value for name, value in named.items() if value is not None}
        if text.parts:
            described["sources"] = [
                {"source": part.source, "sha256": part.sha256, "weight": weight, "samples": share}
                for (weight, part), share in zip(text.parts, shares(text, data.samples), strict=True)
            ]
        return Calibrated(samples, described)

    def windows(self, text: TextChoice, seq_len: int | None, count: int | None) -> Windows:
        """Read a text and cut it into the windows of a perplexity."""
        length, read = self.seq_len(seq_len), self._read(text, "test")
        made = cut(read, self.tokenizer, self.config, seq_len=length, windows=count, progress=self.progress)
        made = replace(made, tokenizer=self.named_tokenizer)
        self.check_ids([made.ids], read)
        return made

    def _read(self, choice: TextChoice, split: str) -> Text:
        """Read a text, and say what was read of it."""
        text = choice.load(split)
        for reading in text.readings:
            self.progress.note(reading)
        return text

    def report_targets(self) -> None:
        """Report what will be pruned, and what will not and why."""
        weights = sum(target.size for target in self.targets)
        outside = self.size.outside
        self.progress.note(
            f"{len(self.targets)} target layers with {weights / 1e6:.1f} M weights, {weights / outside:.1%} of the "
            f"model's {outside / 1e6:.1f} M outside embeddings"
        )
        if 2 * weights < outside:
            self.progress.note(
                f"{1 - weights / outside:.1%} of the weights outside embeddings stay dense at every sparsity; "
                "'unipruning targets MODEL' lists why, --include PATTERN chooses other layers, and --sparsity P%/model "
                "asks for a ratio of the whole model"
            )
        reasons: dict[str, list[str]] = {}
        for part in self.left_out:
            reasons.setdefault(part.why, []).append(part.name)
        for why, names in reasons.items():
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self.progress.note(f"left dense: {names[0]}{others} ({why})")

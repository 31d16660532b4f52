"""A model in a folder or on the hub, of which nothing is read before it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unipruning_core.distributed.launched import launched_rank
from unipruning_core.distributed.world import World, join
from unipruning_core.extensions import hide_broken_extensions
from unipruning_core.jobs.prepared import Prepared
from unipruning_core.models.fit import check_embeddings, prefix_explained
from unipruning_core.models.kinds import another_class
from unipruning_core.models.loading import (
    ModelChoice,
    build_outline,
    build_without_values,
    choose_dtype,
    load_config_and_tokenizer,
    load_model,
    load_tokenizer,
)
from unipruning_core.models.memory import check_model_fits
from unipruning_core.models.names import Names
from unipruning_core.models.size import ModelSize
from unipruning_core.models.targets import find_targets
from unipruning_core.progress import Progress
from unipruning_core.registry import Catalogue
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.outputs import check_apart

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.jobs.prepared import Calibrated
    from unipruning_core.models.targets import LeftOut
    from unipruning_core.storage.checkpoint import Target


class OnDisk(Prepared):
    """A model in a folder or on the hub; nothing is read before it is needed."""

    def __init__(self, choice: ModelChoice, backend: str | None, progress: Progress) -> None:
        self.choice, self.name = choice, choice.name
        self.progress = Progress() if launched_rank() else progress  # one of several processes speaks for all
        self.named_tokenizer, self._backend = choice.tokenizer, backend

    @cached_property
    def backend(self) -> Backend:
        backend = Catalogue().select(self._backend)
        hide_broken_extensions()
        self.progress.note(f"backend {backend.name}")
        return backend

    @cached_property
    def checkpoint(self) -> Checkpoint:  # type: ignore[override]  # the same attribute, computed lazily
        """The headers of its files, read once."""
        _ = self.backend  # before any download, so that a backend that cannot run is refused without one
        return Checkpoint.open(self.choice.resolved())

    @cached_property
    def _config_and_tokenizer(self) -> tuple[PretrainedConfig, Any]:
        return load_config_and_tokenizer(self.checkpoint, self.choice)

    @property
    def config(self) -> PretrainedConfig:
        return self._config_and_tokenizer[0]

    @property
    def tokenizer(self) -> Any:
        config, tokenizer = self._config_and_tokenizer
        if tokenizer is None:
            tokenizer = load_tokenizer(self.checkpoint.folder, self.choice)
            self._config_and_tokenizer = config, tokenizer
        return tokenizer

    def calibrate(self, data: DataChoice, seed: int) -> Calibrated:
        calibrated = super().calibrate(data, seed)
        # the vocabulary takes tens of MB, which the weights can have; it is read again should it be needed
        self._config_and_tokenizer = self.config, None
        return calibrated

    @cached_property
    def _found(self) -> tuple[tuple[Target, ...], tuple[LeftOut, ...], ModelSize]:
        self.checkpoint.codes.check_prunable()
        with prefix_explained(self.outline, self.checkpoint):
            layers, left_out = find_targets(self.outline, self.checkpoint, self.choice.targets)
        return tuple(layer.target for layer in layers), tuple(left_out), ModelSize.of(self.outline, layers)

    @cached_property
    def outline(self) -> PreTrainedModel:
        outline = build_outline(self.config, self.choice)
        check_embeddings(outline, self.checkpoint)
        if (said := another_class(outline)) is not None:
            self.progress.note(said)
        return outline

    @property
    def targets(self) -> tuple[Target, ...]:
        return self._found[0]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self._found[1]

    @property
    def size(self) -> ModelSize:
        return self._found[2]

    @cached_property
    def dtype(self) -> torch.dtype:
        return choose_dtype(self.choice, self.checkpoint, self.backend, self.progress)

    def check_apart(self, out: Path) -> None:
        """Refuse an output that overlaps the model, or a file that the model links to."""
        files = [self.checkpoint.folder / path for path in self.checkpoint.files_to_copy()[0]]
        check_apart(out, "model", [self.checkpoint.folder, *self.checkpoint.shards, *files])

    @cached_property
    def world(self) -> World:
        """The processes that a launcher started for this command."""
        return join(self.backend.device_type)

    def check_finite(self) -> dict[str, str]:
        """Refuse NaN or infinite values in a tensor that the model uses; return the sha256 of each target's weight.

        Every rank reads some of the tensors.
        """
        unused = Names.of(self.outline, self.checkpoint).unused
        floating = [
            name
            for name, info in self.checkpoint.tensors.items()
            if info.dtype.is_floating_point and name not in unused
        ]
        mine = floating[self.world.rank :: self.world.size]
        digests: dict[str, str] = {}
        for of_rank in self.world.each(self.checkpoint.check_finite(mine, self.progress, digested=self.targets)):
            digests |= of_rank
        return {target.name: digests[target.name] for target in self.targets if target.name in digests}

    def load_for_ranks(self) -> PreTrainedModel:
        """Return the model with shapes and buffers, whose values are loaded when it is divided."""
        model = build_without_values(self.config, self.choice, self.dtype)
        model.name_or_path = self.name
        return model

    def load(self, bytes_per_device: Sequence[int] = ()) -> PreTrainedModel:
        """Load the weights onto the first device, or over several with so many bytes of weights on each."""
        if len(bytes_per_device) > 1:
            self.progress.note(f"spreading the model over {len(bytes_per_device)} devices")
        # what a job has planned its memory for is checked already
        elif not bytes_per_device:
            check_model_fits(self.checkpoint, self.dtype, self.backend)
        with prefix_explained(self.outline, self.checkpoint):
            model = load_model(
                self.checkpoint.folder,
                self.dtype,
                self.backend.device_type,
                bytes_per_device,
                trust_remote_code=self.choice.trust_remote_code,
                progress=self.progress,
                checkpoint=self.checkpoint,
            )
        model.name_or_path = self.name  # as the user wrote it, also where it lies in the hub's cache
        return model

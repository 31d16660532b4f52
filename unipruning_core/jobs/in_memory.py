"""Jobs on a model in memory: a search leaves it unchanged, a projection masks its weights in place."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.data.perplexity import Perplexity, measured
from unipruning_core.errors import CheckpointError, ConfigError, RunError
from unipruning_core.jobs.found_scores import FoundScores
from unipruning_core.jobs.masks import Masks
from unipruning_core.jobs.prepared import Prepared
from unipruning_core.jobs.restored import restored
from unipruning_core.models.auto import tokenizer_of
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.experts import apart
from unipruning_core.models.memory import memory_errors_as_config_errors
from unipruning_core.models.passes import name_of
from unipruning_core.models.saved import Saved
from unipruning_core.models.size import ModelSize
from unipruning_core.models.targets import LeftOut, find_targets
from unipruning_core.projection.decide import Scores, check_weight, checked_score, decide
from unipruning_core.projection.empty import Empty
from unipruning_core.projection.masks import masks_of
from unipruning_core.projection.project import with_scope
from unipruning_core.registry import Catalogue
from unipruning_core.search.activation_memory import check_choice, decide_recomputation
from unipruning_core.search.compilation import compiled_blocks
from unipruning_core.search.finished import COMPILED, NOT_COMPILED
from unipruning_core.search.loop import versions
from unipruning_core.search.memory import room_beside
from unipruning_core.search.nonfinite import SKIPPED, checked
from unipruning_core.search.run_document import TARGETS
from unipruning_core.search.samples import check_skipping, run_samples
from unipruning_core.sparsity.parse import check_fits
from unipruning_core.sparsity.per_row import check_rows_fit
from unipruning_core.storage.tensorfile import digest_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.models.layer import Layer
    from unipruning_core.progress import Progress
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.parse import Sparsity
    from unipruning_core.storage.checkpoint import Target


class InMemory(Prepared):
    """A ``transformers`` model with its tokenizer; the backend is the best one for the device it is on."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        backend: str | None,
        progress: Progress,
        choice: TargetChoice = BY_ROLE,
    ) -> None:
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel):
            raise ConfigError(
                f"a model is a folder, a hub id or a transformers model, not a {type(model).__name__}; pass the model "
                "that it wraps, if it wraps one"
            )
        self.model, self.progress = model, progress
        self.name = name_of(model)
        # targets and fingerprint are those of the same model on disk
        self._saved = Saved.of(model, self.name)
        self.checkpoint = self._saved.checkpoint
        self.choice = choice
        self._tokenizer, self._backend = tokenizer_of(tokenizer), backend

    @cached_property
    def backend(self) -> Backend:
        devices = {layer.weight.device.type for layer in self.layers}
        backend = Catalogue().select(self._backend, device_type=min(devices))
        if devices != {backend.device_type}:
            raise ConfigError(
                f"backend {backend.name!r} computes on {backend.device_type!r}, but the model's layers are on "
                f"{', '.join(sorted(devices))}; move the model with model.to({backend.device_type!r})"
            )
        self.progress.note(f"backend {backend.name}")
        return backend

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            raise ConfigError("a model in memory needs its tokenizer to read text; pass tokenizer=...")
        return self._tokenizer

    @cached_property
    def _layers_and_left_out(self) -> tuple[list[Layer], tuple[LeftOut, ...]]:
        layers, left_out = find_targets(self.model, self.checkpoint, self.choice)
        if quantised := [layer for layer in layers if not layer.weight.is_floating_point()]:
            raise CheckpointError(
                f"layer {quantised[0].name!r} has quantised weights ({quantised[0].weight.dtype}); load the model in "
                "bfloat16, float16 or float32"
            )
        return layers, tuple(left_out)

    @property
    def layers(self) -> list[Layer]:
        """The targets with the modules that hold them."""
        return self._layers_and_left_out[0]

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(layer.target for layer in self.layers)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self._layers_and_left_out[1]

    @property
    def size(self) -> ModelSize:
        return ModelSize.of(self.model, self.layers)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def outline(self) -> PreTrainedModel:
        return self.model

    def fingerprint(self) -> str:
        """Return the fingerprint of the current weights: that of a checkpoint that ``save_pretrained`` would write."""
        return self._saved.fingerprint()

    def check_finite(self) -> None:
        """Refuse a target with NaN or infinite weights.

        Raises:
            CheckpointError: there is one.
        """
        for layer in self.layers:
            if not bool(layer.weight.isfinite().all()):
                raise CheckpointError(
                    f"layer {layer.name!r} has weights that are NaN or infinite; load the model again"
                )


def search_in_memory(
    model: InMemory,
    data: DataChoice,
    settings: Settings,
    *,
    checkpoint_activations: str = "auto",
    skip_nonfinite: bool = False,
    compile: bool = False,
) -> FoundScores:
    """Search a loaded model, then restore its weights, gradients, training modes and ``requires_grad`` flags.

    Raises:
        UnipruningError: what is wrong, before the first sample if possible.
    """
    check_choice(checkpoint_activations, settings)
    check_skipping(settings, skip_nonfinite=skip_nonfinite)
    model.check((), settings)
    backend, progress = model.backend, model.progress
    model.report_targets()
    progress.note(settings.announcement)
    room = room_beside(settings, model.targets, model.dtype, backend)
    model.check_finite()
    calibrated = model.calibrate(data, settings.seed)
    batches = calibrated.samples.batches
    duals, thresholds = {}, {}
    kept: list[Target] = []
    with (
        memory_errors_as_config_errors(backend),
        restored(model.model, model.layers if settings.moves_weights else []),
        apart(model.layers),
        ExitStack() as stack,
    ):
        run = settings.start(model.model, model.layers, backend, len(batches))
        run.recomputes = decide_recomputation(checkpoint_activations, run, calibrated.samples, room, progress)
        why_not = stack.enter_context(compiled_blocks(run, batches, progress)) if compile else None
        origins = calibrated.samples.origins
        processed = run_samples(run, batches, progress, origins=origins, skip_nonfinite=skip_nonfinite)
        for note in run.reach().note():
            progress.note(note)
        for outcome in checked(run.outcomes(), processed.kept):
            kept.append(outcome.target)
            duals[outcome.target.name] = outcome.dual.cpu()
            thresholds[outcome.target.name] = float(outcome.threshold)
    fingerprint = model.fingerprint()
    provenance: dict[str, object] = {
        "settings": settings.to_json(),
        "model": {"name": model.name, "fingerprint": fingerprint},
        "data": calibrated.record,
        "backend": backend.name,
        "versions": versions(),
        TARGETS: model.choice.to_json(),
    }
    digests = {layer.name: digest_of(layer.as_stored(layer.weight).cpu()) for layer in model.layers}
    provenance |= {SKIPPED: processed.skipped} if processed.skipped else {}
    if compile:
        provenance |= {NOT_COMPILED: why_not} if why_not else {COMPILED: True}
    losses = tuple(processed.losses)
    return FoundScores(
        tuple(kept),
        fingerprint,
        settings.scope,
        provenance,
        duals,
        thresholds,
        losses,
        tuple(processed.thresholds),
        digests=digests,
        target_choice=model.choice,
        model_weights=model.size.weights,
    )


def project_in_memory(model: InMemory, scores: Scores, sparsity: Sparsity, keep_per_row: int = 0) -> Masks:
    """Set the pruned weights of a loaded model to zero, in place.

    Returns:
        The masks by parameter name: bool, in the parameter's own shape, on the host; True is kept.

    Raises:
        RunError: the scores were not made from this model's weights.
    """
    sparsity = with_scope(sparsity, scores, model.progress)
    check_fits(sparsity, scores.targets, model.size.weights)
    check_rows_fit(keep_per_row, sparsity, scores.targets, model.size.weights)
    by_name = {layer.name: layer for layer in model.layers}
    if unknown := [t for t in scores.targets if t.name not in by_name or by_name[t.name].target != t]:
        raise RunError(
            f"the scores have a target {unknown[0].name!r} of shape {unknown[0].shape}, but the model does not; search "
            "this model"
        )
    masked: set[str] = getattr(scores, "masked", set())
    if (fingerprint := model.fingerprint()) not in {scores.fingerprint} | masked:
        raise RunError(
            "the model's weights are not those that the scores were made from; load the model again, or search it again"
        )
    if fingerprint not in masked:
        for target in scores.targets:
            layer = by_name[target.name]
            check_weight(scores, target, layer.as_stored(layer.weight).cpu())
    masks = Masks()
    empty: list[Empty] = []
    with memory_errors_as_config_errors(model.backend), torch.no_grad():
        decided = decide(scores, [sparsity], model.backend, model.progress, model.size.weights, None, keep_per_row)
        with model.progress.task("pruning", len(scores.targets), "matrices") as task:
            for position, target in enumerate(scores.targets):
                score = checked_score(scores, target).to(model.backend.device_type)
                (mask,) = masks_of(score, position, target.name, decided, model.backend)
                empty.append(Empty.of(mask.cpu()))
                layer = by_name[target.name]
                held = (mask.t() if layer.transposed else mask).cpu()
                if layer.stack is None:
                    masks[layer.name_in_model] = held.contiguous()
                else:  # an expert's part of a parameter
                    shape, first = layer.stack.parameter.shape, layer.stack.parameter.storage_offset()
                    whole = masks.setdefault(layer.name_in_model, torch.ones(shape, dtype=torch.bool))
                    part = layer.parameter
                    whole.as_strided(part.shape, part.stride(), part.storage_offset() - first).copy_(held)
                task.advance()
        # only now: a score that is refused leaves the model as it was
        parameters = dict(model.model.named_parameters(remove_duplicate=False))
        for name, kept in masks.items():
            parameter = parameters[name]
            parameter.masked_fill_(~kept.to(parameter.device), 0.0)
    for note in Empty.of_all(empty).notes(sparsity, scores.targets):
        model.progress.note(note)
    if isinstance(scores, FoundScores):
        scores.masked.add(model.fingerprint())
    return masks


def perplexity_in_memory(
    model: InMemory, text: TextChoice, *, seq_len: int | None = None, windows: int | None = None
) -> Perplexity:
    """Measure the perplexity of a loaded model on a text by the standard protocol."""
    made = model.windows(text, seq_len, windows)
    with memory_errors_as_config_errors(model.backend), restored(model.model):
        return measured(model.model, made, model.progress)

"""Jobs on a model that is loaded already: a search leaves it as it was, a projection masks its weights in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unipruning_core.data.perplexity import Perplexity, perplexity
from unipruning_core.errors import CheckpointError, ConfigError, RunError
from unipruning_core.jobs.prepared import Prepared
from unipruning_core.models.memory import GIB, free_bytes, memory_errors_as_config_errors
from unipruning_core.models.outline import header_of, saved_buffers
from unipruning_core.models.targets import LeftOut, find_targets
from unipruning_core.projection.decide import Scores, checked_score, decide, masks_of
from unipruning_core.projection.project import with_scope
from unipruning_core.registry import Catalogue
from unipruning_core.search.loop import run_samples, versions
from unipruning_core.storage.checkpoint import Checkpoint, fingerprint_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.models.targets import Layer
    from unipruning_core.progress import Progress
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.forms import Scope
    from unipruning_core.sparsity.parse import Sparsity
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class FoundScores:
    """What a search of a model in memory leaves behind: scores that can be projected as often as wanted."""

    targets: tuple[Target, ...]
    fingerprint: str  # of the weights that were searched
    scope: Scope
    provenance: dict[str, object]
    duals: Mapping[str, Tensor]  # V by target: (out, in), float32, on the host
    thresholds: Mapping[str, float]  # tau by target
    losses: tuple[float, ...]  # a calibration sample, where the mode computes them
    masked: set[str] = field(default_factory=set)  # fingerprints of the weights once masks of these scores are applied

    def score(self, name: str) -> Tensor:
        """abs(Gamma) = max(abs(V) - tau, 0) of one target, (out, in) float32 on the host."""
        return self.duals[name].abs().sub_(self.thresholds[name]).clamp_min_(0.0)


class InMemory(Prepared):
    """A ``transformers`` model with its tokenizer; the backend is the best one for the device it lies on."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, backend: str | None, progress: Progress) -> None:
        self.model, self.progress = model, progress
        self.name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        self.checkpoint = Checkpoint(Path(self.name), (), header_of(model))
        self._tokenizer, self._backend = tokenizer, backend

    @cached_property
    def backend(self) -> Backend:
        devices = {layer.weight.device.type for layer in self.layers}
        backend = Catalogue().select(self._backend, device_type=min(devices))
        if devices != {backend.device_type}:
            raise ConfigError(
                f"backend {backend.name!r} computes on {backend.device_type!r}, but the model's layers lie on "
                f"{', '.join(sorted(devices))}; move the model there with model.to({backend.device_type!r})"
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
    def _found(self) -> tuple[list[Layer], tuple[LeftOut, ...]]:
        layers, left_out = find_targets(self.model, self.checkpoint)
        if quantised := [layer for layer in layers if not layer.weight.is_floating_point()]:
            raise CheckpointError(
                f"layer {quantised[0].name!r} holds {quantised[0].weight.dtype}, which is quantised; load the model in "
                "bfloat16, float16 or float32"
            )
        return layers, tuple(left_out)

    @property
    def layers(self) -> list[Layer]:
        """The targets with the modules that hold them."""
        return self._found[0]

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(layer.target for layer in self.layers)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self._found[1]

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def fingerprint(self) -> str:
        """Of the weights as they are now; that of the checkpoint that ``save_pretrained`` would write."""
        tensors = dict([*self.model.named_parameters(), *saved_buffers(self.model)])

        def part(name: str, start: int, size: int) -> bytes:
            flat = tensors[name].detach().reshape(-1)
            first, last = start // flat.itemsize, -(-(start + size) // flat.itemsize)
            held: bytes = flat[first:last].cpu().view(torch.uint8).numpy().tobytes()
            return held[start - first * flat.itemsize :][:size]

        return fingerprint_of(self.checkpoint.tensors, part)

    def check_finite(self) -> None:
        """Refuse a target that is not finite.

        Raises:
            CheckpointError: it holds NaN or infinity.
        """
        for layer in self.layers:
            if not bool(layer.weight.isfinite().all()):
                raise CheckpointError(f"layer {layer.name!r} has weights that are NaN or infinite; load it anew")


def search_in_memory(model: InMemory, data: DataChoice, settings: Settings) -> FoundScores:
    """Search a loaded model, which is afterwards as it was: weights, gradients, modes and flags.

    Raises:
        UnipruningError: whatever was wrong, before the first sample wherever that can be known.
    """
    model.check((), settings)
    backend, progress = model.backend, model.progress
    model.report_targets()
    progress.note(f"mode {settings.mode}, metric {settings.metric}: {settings.summary}")
    _check_memory(model, settings)
    model.check_finite()
    calibrated = model.calibrate(data, settings.seed)
    batches = calibrated.samples.batches
    duals, thresholds = {}, {}
    with memory_errors_as_config_errors(backend), _as_it_was(model, weights=settings.moves_weights):
        run = settings.start(model.model, model.layers, backend, len(batches))
        losses = run_samples(run, batches, progress)
        for outcome in run.outcomes():
            duals[outcome.target.name] = outcome.dual.cpu()
            thresholds[outcome.target.name] = float(outcome.threshold)
    fingerprint = model.fingerprint()
    provenance: dict[str, object] = {
        "settings": settings.to_json(),
        "model": {"name": model.name, "fingerprint": fingerprint},
        "data": {
            **calibrated.described,
            "tokens": calibrated.samples.tokens,
            "fingerprint": calibrated.samples.fingerprint,
        },
        "backend": backend.name,
        "versions": versions(),
    }
    return FoundScores(model.targets, fingerprint, settings.scope, provenance, duals, thresholds, tuple(losses))


def project_in_memory(model: InMemory, scores: Scores, sparsity: Sparsity) -> dict[str, Tensor]:
    """Set the pruned weights of a loaded model to zero, in place.

    Returns:
        The masks by parameter name: bool, in the parameter's own shape, on the host; True is kept.

    Raises:
        RunError: the scores are not of this model's weights.
    """
    sparsity = with_scope(sparsity, scores, model.progress)
    sparsity.check(scores.targets)
    by_name = {layer.name: layer for layer in model.layers}
    if strange := [t for t in scores.targets if t.name not in by_name or by_name[t.name].target.shape != t.shape]:
        raise RunError(f"the scores have a target {strange[0].name!r} that the model has not; search this model")
    allowed = {scores.fingerprint} | getattr(scores, "masked", set())
    if model.fingerprint() not in allowed:
        raise RunError(
            "the model's weights are not those that the scores were made from; load the model again, or search it again"
        )
    masks = {}
    with memory_errors_as_config_errors(model.backend), torch.no_grad():
        decided = decide(scores, [sparsity], model.backend, model.progress)
        with model.progress.task("pruning", len(scores.targets), "matrix") as task:
            for position, target in enumerate(scores.targets):
                score = checked_score(scores, target, model.backend)
                (mask,) = masks_of(score, position, target.name, decided, model.backend)
                layer = by_name[target.name]
                kept = mask.t() if target.transposed else mask
                layer.parameter.masked_fill_(~kept.to(layer.parameter.device), 0.0)
                masks[target.name] = kept.cpu().contiguous()
                task.advance()
    if isinstance(scores, FoundScores):
        scores.masked.add(model.fingerprint())
    return masks


def perplexity_in_memory(
    model: InMemory, text: TextChoice, *, seq_len: int | None = None, windows: int | None = None
) -> Perplexity:
    """Perplexity of a loaded model on a text, by the field's standard protocol."""
    length, read = model.seq_len(seq_len), text.load("test")
    with memory_errors_as_config_errors(model.backend), _as_it_was(model, weights=False):
        return perplexity(model.model, model.tokenizer, read, seq_len=length, windows=windows, progress=model.progress)


def _check_memory(model: InMemory, settings: Settings) -> None:
    wanted = sum(settings.held_bytes([target.size for target in model.targets], model.dtype.itemsize).values())
    free = free_bytes(model.backend.device_type)
    if free is not None and wanted > free:
        raise ConfigError(
            f"the search would hold {wanted / GIB:.1f} GiB besides the model and activations, but {free / GIB:.1f} GiB "
            f"are free on the {model.backend.name} device; {settings.memory_remedy}"
        )


@contextmanager
def _as_it_was(model: InMemory, *, weights: bool) -> Iterator[None]:
    """Put back training modes, gradients, which parameters ask for one, and with ``weights`` the targets' weights."""
    training = {module: module.training for module in model.model.modules()}
    asked: Sequence[tuple[torch.nn.Parameter, bool, Tensor | None]] = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.model.parameters()
    ]
    copies = [layer.parameter.detach().cpu().clone() for layer in model.layers] if weights else []
    for parameter, _, _ in asked:
        parameter.grad = None
    try:
        yield
    finally:
        for layer, copy in zip(model.layers if weights else [], copies, strict=True):
            layer.parameter.data.copy_(copy)
        for parameter, wanted, gradient in asked:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        for module, mode in training.items():
            module.training = mode

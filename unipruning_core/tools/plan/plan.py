"""What a search will hold, move and take on some machine, from a model's config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import BackendNotFoundError, ConfigError
from unipruning_core.projection.mask_file import packed_bytes
from unipruning_core.registry import Catalogue
from unipruning_core.search.feedback import rows_share
from unipruning_core.search.memory import held_parts
from unipruning_core.search.saliency import METRICS, SUBSET_SHARE
from unipruning_core.search.settings import SCOPES
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Unstructured, kept_weights
from unipruning_core.sparsity.mix import Mix

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline
    from unipruning_core.search.settings import SearchSettings
    from unipruning_core.sparsity.forms import Cut, Sparsity
    from unipruning_core.storage.checkpoint import Target

SCHEMA = "unipruning-plan-1"
FORMULA = (
    "samples x max(FLOP of the model / FLOP/s, bytes of the model / bandwidth) + steps x bytes of a step / bandwidth"
)


@dataclass(frozen=True)
class Machine:
    """What the user says about the device; None where nothing was said."""

    bandwidth: float | None = None  # bytes a second
    flops: float | None = None  # a second, in the weights' dtype


@dataclass(frozen=True)
class Plan:
    """A search and its projections, in bytes, operations and seconds."""

    model: str
    backend: str | None  # None for any
    reference: list[str]  # operations the backend leaves to the reference, which moves more than the minimum
    dtype: str
    parameters: int
    targets: int
    weights: int  # of all targets
    left_out: list[str]
    samples: int
    seq_len: int
    steps: int  # mirror steps of each matrix
    memory: dict[str, int]  # bytes held at the peak, by part
    model_flops: int  # a sample
    model_bytes: int  # a sample: passes over the weights, activations once out and once in
    step_bytes: dict[str, float]  # the minimum a step moves, a target weight, by part
    files: dict[str, int]  # bytes on disk
    pruned: dict[str, int]  # weights, by sparsity
    seconds: dict[str, float] | None  # None without a stated bandwidth and FLOP/s

    @property
    def held(self) -> int:
        """Bytes of all parts of the memory together."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "held": self.held, "formula": FORMULA}


def plan_search(
    outline: Outline,
    settings: SearchSettings,
    *,
    backend: str | None,
    samples: int,
    seq_len: int,
    sparsities: Sequence[Sparsity] = (),
    machine: Machine | None = None,
) -> Plan:
    """Plan without running: the model is traced on tensors that have no values, the backend is not loaded.

    Raises:
        ConfigError: the numbers make no search, or a sparsity does not fit a layer.
        BackendNotFoundError: no plugin has the name.
    """
    from unipruning_core.models.loading import check_seq_len
    from unipruning_core.tools.plan.trace import trace_sample

    machine = machine or Machine()
    if samples < 1:
        raise ConfigError(f"a plan wants samples >= 1, not {samples}")
    for name, value in asdict(machine).items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be a positive number, not {value}")
    reference = left_to_reference(backend)
    check_seq_len(outline.config, seq_len)
    scope = SCOPES.get(settings.mode, "matrix")
    sparsities = [s.within(scope) if isinstance(s, Unstructured) else s for s in sparsities]
    for sparsity in sparsities:
        sparsity.check(outline.targets)
    pruned = {str(sparsity): pruned_weights(outline.targets, sparsity) for sparsity in sparsities}
    follows_loss = settings.mode != "frozen"
    trace = trace_sample(outline, seq_len, backward=follows_loss)
    width, metric = outline.dtype.itemsize, METRICS[settings.metric]
    sizes = [rows * columns for rows, columns in (target.shape for target in outline.targets)]
    # what was read, and for a loss read again and written as gradient
    passes = outline.parameters + (outline.parameters + outline.weights if follows_loss else 0)
    model_bytes = width * passes + 2 * trace.activations
    steps = samples if follows_loss or metric.random_subsets else 1
    step_bytes = least_step_bytes(outline.targets, settings, width)
    return Plan(
        model=outline.name,
        backend=backend,
        reference=reference,
        dtype=str(outline.dtype).removeprefix("torch."),
        parameters=outline.parameters,
        targets=len(outline.targets),
        weights=outline.weights,
        left_out=[f"{part.name}: {part.why}" for part in outline.left_out],
        samples=samples,
        seq_len=seq_len,
        steps=steps,
        memory={**held_parts(outline.parameters, sizes, settings, width), "activations (traced)": trace.activations},
        model_flops=trace.flops,
        model_bytes=model_bytes,
        step_bytes=step_bytes,
        files={
            "run folder": 4 * outline.weights,
            "each pruned checkpoint": width * outline.parameters,
            **{f"masks of {sparsity}": masks_bytes(outline.targets, sparsity) for sparsity in sparsities},
        },
        pruned=pruned,
        seconds=seconds(
            machine,
            samples * trace.flops,
            samples * model_bytes,
            steps * outline.weights * sum(step_bytes.values()),
        ),
    )


def least_step_bytes(targets: Sequence[Target], settings: SearchSettings, width: int) -> dict[str, float]:
    """The fewest bytes a step moves, a target weight: each matrix read once and written once by each operation.

    With w the bytes of a weight's dtype, sums read W; a random subset is read, written and read; the mirror step reads
    W and V and writes V; AdamW reads the gradient and reads and writes W and both moments.
    """
    parts = {"abs_sums": float(width)}
    if METRICS[settings.metric].random_subsets:
        subsets = sum(max(1, round(SUBSET_SHARE * min(t.shape))) * sum(t.shape) for t in targets)
        parts["random subsets"] = 3 * width * subsets / sum(t.shape[0] * t.shape[1] for t in targets)
    parts["mirror_step"] = float(8 + width)
    if settings.mode == "coupled":
        parts["weight step"] = float(5 * width + 4)
    if settings.mode in ("drift", "feedback"):
        if settings.mode == "drift" and settings.max_grad_norm:
            parts["gradient norm"] = float(width)
        if settings.learning_rate:
            parts["AdamW"] = float(5 * width + 8)
        if settings.prox_strength:
            parts["nm_prox"] = float(2 * width)
    if settings.mode == "feedback":
        if not settings.learning_rate:
            parts["mirror_step of the second dual"] = float(8 + 2 * width)
        # the score is blended afresh for each of three histograms of some rows, and for both masks: forward, backward
        terms = 2 if settings.learning_rate else 0  # the weight and its drift
        share = rows_share(sum(t.shape[0] * t.shape[1] for t in targets))
        parts["budget"] = share * 3 * (12 + terms * width + 4)
        parts["masked weights"] = float(2 * (12 + terms * width + 5 + 1 + (terms or 1) * width + width))
        if settings.learning_rate:
            parts["drifting weights"] = float(3 * width)
    return parts


def left_to_reference(backend: str | None) -> list[str]:
    """The operations a backend has no implementation of its own for, by its manifest; nothing is loaded or probed."""
    if backend is None:
        return []
    specs = Catalogue().specs
    if backend not in specs:
        raise BackendNotFoundError(backend, sorted(specs))
    return [name for name in OPERATIONS if name not in specs[backend].optimised]


def masks_bytes(targets: Sequence[Target], sparsity: Sparsity) -> int:
    """Bytes of the masks of all targets as they are stored."""
    cuts = _cuts(targets, sparsity)
    return sum(packed_bytes(target.shape, cuts[target.name]) for target in targets)


def pruned_weights(targets: Sequence[Target], sparsity: Sparsity) -> int:
    """How many weights a sparsity prunes, by the exact counts of its scope."""
    total = sum(rows * columns for rows, columns in (target.shape for target in targets))
    if isinstance(sparsity, Unstructured) and sparsity.scope == "global":
        return total - sparsity.keep(total)
    cuts = _cuts(targets, sparsity)
    return total - sum(kept_weights(cuts[target.name], target.shape) for target in targets)


def _cuts(targets: Sequence[Target], sparsity: Sparsity) -> dict[str, Cut]:
    if isinstance(sparsity, Mix):
        raise ConfigError(
            f"what sparsity {str(sparsity)!r} comes to is chosen by scores, which a plan has not; give a share, N:M or"
            " a budget's file"
        )
    return sparsity.cuts(targets) if isinstance(sparsity, Budget) else {t.name: sparsity for t in targets}


def seconds(machine: Machine, flops: float, model_bytes: float, step_bytes: float) -> dict[str, float] | None:
    """The roofline of a whole search: ``FORMULA``."""
    if machine.bandwidth is None or machine.flops is None:
        return None
    model = max(flops / machine.flops, model_bytes / machine.bandwidth)
    steps = step_bytes / machine.bandwidth
    return {"forward and backward": model, "steps": steps, "all": model + steps}

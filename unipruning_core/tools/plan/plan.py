"""The predicted memory, traffic and time of a search on some machine, from a model's config alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import BackendNotFoundError, ConfigError
from unipruning_core.projection.mask_file import packed_bytes
from unipruning_core.registry import Catalogue
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Unstructured, kept_weights
from unipruning_core.sparsity.mix import Mix
from unipruning_core.sparsity.parse import check_fits
from unipruning_core.tools.plan.wanted import Wanted

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.forms import MatrixSparsity
    from unipruning_core.sparsity.parse import Sparsity
    from unipruning_core.storage.checkpoint import Target
    from unipruning_core.tools.plan.layout import Layout

# as the flags take them
UNITS = {"bandwidth": (1e9, "GB/s"), "flops": (1e12, "TFLOP/s"), "network": (1e9, "GB/s"), "pcie": (1e9, "GB/s")}
SLOWEST, FASTEST = 1.0, 1e30  # a second
SCHEMA = "unipruning-plan-2"
FORMULA = (
    "samples of a rank x max(FLOP of the model / FLOP/s, bytes of the model / bandwidth, bytes sent / network, bytes "
    "copied / PCIe) + steps x bytes of a step / ranks / bandwidth"
)
TRACED = ("activations", "logits")


@dataclass(frozen=True)
class Machine:
    """The user's description of the device; None for what was not given."""

    bandwidth: float | None = None  # bytes per second
    flops: float | None = None  # per second, in the weights' dtype
    network: float | None = None  # bytes per second that a rank can send
    pcie: float | None = None  # bytes per second between a device and the host's memory, or its disk

    def missing(self, layout: Layout) -> list[str]:
        """Return which of these a prediction of the time needs and lacks."""
        needed = {"bandwidth": True, "flops": True, "network": layout.ranks > 1, "pcie": layout.offload != "none"}
        return [f"--{name}" for name, used in needed.items() if used and getattr(self, name) is None]


@dataclass(frozen=True)
class SearchPlan:
    """A search and its projections, in bytes, operations and seconds."""

    model: str
    backend: str | None  # None for any
    reference: list[str]  # operations that the backend leaves to the reference, which moves more than the minimum
    dtype: str
    parameters: int
    embeddings: int  # of these, outside of the targets
    targets: int
    weights: int  # of all targets
    left_out: list[str]
    samples: int
    seq_len: int
    steps: int  # mirror steps of each matrix
    layout: Layout
    together: int  # samples that the ranks process at a time
    phase: str  # of the peak
    memory: dict[str, int]  # bytes on each rank's device at the peak, by part
    host: int  # bytes of the host's memory, or its disk, that each rank takes
    sent: int  # bytes that each rank sends, per sample of its own
    copied: int  # bytes between each device and the host, per sample of its own
    model_flops: int  # per sample
    model_bytes: int  # per sample: passes over the weights, activations written once and read once
    step_bytes: dict[str, float]  # the minimum a step moves per target weight, by part
    files: dict[str, int]  # bytes on disk
    pruned: dict[str, int]  # weights, by sparsity
    untraced: str | None  # why operations and activations are by formula
    seconds: dict[str, float] | None  # None unless all speeds that it needs are given
    missing: list[str]  # those that are not

    @property
    def held(self) -> int:
        """The bytes of all parts of the memory together."""
        return sum(self.memory.values())

    @property
    def alike(self) -> bool:
        """Whether some ranks do the same as others, for lack of samples in a step."""
        return self.together < self.layout.ranks

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "held": self.held, "formula": FORMULA}


def plan_search(
    outline: Outline,
    settings: Settings,
    *,
    backend: str | None,
    samples: int,
    seq_len: int,
    sparsities: Sequence[Sparsity] = (),
    machine: Machine | None = None,
    wanted: Wanted | None = None,
) -> SearchPlan:
    """Plan a search without running it: the model is traced on tensors without values, the backend is not loaded.

    Raises:
        ConfigError: a number is out of range, a sparsity does not fit a layer, or no layout fits the devices.
        BackendNotFoundError: no plugin has the name.
    """
    from unipruning_core.models.positions import check_seq_len
    from unipruning_core.tools.plan.choose import choose
    from unipruning_core.tools.plan.layout import Ranks
    from unipruning_core.tools.plan.trace import UntraceableError, by_formula, trace_sample
    from unipruning_core.tools.plan.units import units_of

    machine = machine or Machine()
    if samples < 1:
        raise ConfigError(f"--samples must be 1 or more, not {samples}")
    for name, value in asdict(machine).items():
        if value is not None and not SLOWEST <= value <= FASTEST:
            size, unit = UNITS[name]
            raise ConfigError(
                f"--{name} must be from {SLOWEST / size:g} to {FASTEST / size:g} {unit}, not {value / size:g}"
            )
    reference = left_to_reference(backend)
    check_seq_len(outline.positions, seq_len)
    sparsities = [s.within(settings.scope) if isinstance(s, Unstructured) else s for s in sparsities]
    for sparsity in sparsities:
        check_fits(sparsity, outline.targets, outline.parameters)
    pruned = {str(sparsity): pruned_weights(outline.targets, sparsity, outline.parameters) for sparsity in sparsities}
    try:
        trace, untraced = trace_sample(outline, seq_len, backward=settings.follows_loss), None
    except UntraceableError as error:
        trace, untraced = by_formula(outline, seq_len, backward=settings.follows_loss), str(error)
    how = "by formula" if untraced else "traced"
    width, steps = outline.dtype.itemsize, settings.steps(samples)
    units = units_of(outline, loss=settings.follows_loss)
    wanted = wanted or Wanted(settings)
    search = Ranks(outline, units, trace, settings, seq_len, on_host=wanted.on_host)
    layout = choose(search, wanted)
    rank, trace = search.rank(layout), search.traced(layout)
    # weights are read, and for a loss read again, with gradients written
    passes = outline.parameters + (outline.parameters + outline.weights if settings.follows_loss else 0)
    model_bytes = width * passes + 2 * trace.activations
    step_bytes = settings.step_bytes(outline.targets, width)
    missing = machine.missing(layout)
    of_a_rank = -(-samples // search.together(layout))
    return SearchPlan(
        model=outline.name,
        backend=backend,
        reference=reference,
        dtype=str(outline.dtype).removeprefix("torch."),
        parameters=outline.parameters,
        embeddings=outline.size.embeddings,
        targets=len(outline.targets),
        weights=outline.weights,
        left_out=[f"{part.name}: {part.why}" for part in outline.left_out],
        samples=samples,
        seq_len=seq_len,
        steps=steps,
        layout=layout,
        together=search.together(layout),
        phase=rank.phase,
        memory={f"{part} ({how})" if part in TRACED else part: size for part, size in rank.parts.items()},
        host=rank.host,
        sent=rank.sent,
        copied=rank.copied,
        model_flops=trace.flops,
        model_bytes=model_bytes,
        step_bytes=step_bytes,
        files={
            "run folder": 4 * outline.weights,
            "each pruned checkpoint": outline.stored.itemsize * outline.parameters,
            **{f"masks of {sparsity}": masks_bytes(outline.targets, sparsity) for sparsity in sparsities},
        },
        pruned=pruned,
        untraced=untraced,
        missing=missing,
        seconds=None
        if missing
        else seconds(
            machine,
            of_a_rank,
            {"flops": trace.flops, "bandwidth": model_bytes, "network": rank.sent, "pcie": rank.copied},
            (of_a_rank if settings.follows_loss else steps) * outline.weights * sum(step_bytes.values()) / layout.ranks,
        ),
    )


def left_to_reference(backend: str | None) -> list[str]:
    """Return the operations that a backend does not implement itself, by its manifest; nothing is loaded or probed."""
    if backend is None:
        return []
    specs = Catalogue().specs
    if backend not in specs:
        raise BackendNotFoundError(backend, sorted(specs))
    return [name for name in OPERATIONS if name not in specs[backend].optimised]


def masks_bytes(targets: Sequence[Target], sparsity: Sparsity) -> int:
    """Return the bytes of all targets' masks as they are stored."""
    cuts = _cuts(targets, sparsity)
    return sum(packed_bytes(target.shape, cuts[target.name]) for target in targets)


def pruned_weights(targets: Sequence[Target], sparsity: Sparsity, model_weights: int) -> int:
    """Return how many weights a sparsity prunes, by the exact counts of its scope."""
    total = sum(target.size for target in targets)
    if isinstance(sparsity, Unstructured) and sparsity.spans_matrices:
        return total - sparsity.keep_together(total, model_weights)
    cuts = _cuts(targets, sparsity)
    return total - sum(kept_weights(cuts[target.name], target.shape) for target in targets)


def _cuts(targets: Sequence[Target], sparsity: Sparsity) -> dict[str, MatrixSparsity]:
    if isinstance(sparsity, Mix):
        raise ConfigError(
            f"the forms of sparsity {str(sparsity)!r} are chosen by scores, which a plan does not have; pass a ratio,"
            " N:M or a budget file"
        )
    return sparsity.cuts(targets) if isinstance(sparsity, Budget) else {t.name: sparsity for t in targets}


def seconds(machine: Machine, samples: int, of_sample: Mapping[str, int], steps: float) -> dict[str, float]:
    """Return the roofline of a whole search: ``FORMULA``.

    Args:
        samples: that a rank processes.
        of_sample: what one takes of each part of the machine.
        steps: the bytes of all steps.
    """
    assert machine.bandwidth is not None
    model = samples * max(amount / speed for name, amount in of_sample.items() if (speed := getattr(machine, name)))
    taken = steps / machine.bandwidth
    return {"forward and backward": model, "steps": taken, "all": model + taken}

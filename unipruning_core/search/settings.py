"""The settings and costs of a mode: the part of it that the command line reads, without torch.

A mode is a subclass of ``Settings`` with its own fields, each made by ``setting``.  Flags, defaults, ranges, help
lines, ``KEY=VALUE`` pairs and the record in run.json all come from these fields (``choice.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from math import floor
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from unipruning_core.errors import ConfigError
from unipruning_core.search.metrics import METRICS
from unipruning_core.sparsity.forms import Scope, SemiStructured, parse_pattern
from unipruning_core.spelling import did_you_mean
from unipruning_core.storage.documents import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World
    from unipruning_core.models.home import Home
    from unipruning_core.models.layer import Layer
    from unipruning_core.search.base import Search
    from unipruning_core.storage.checkpoint import Target

KINDS: Mapping[str, tuple[type, str]] = {  # by a field's annotation: its type, and its name in messages
    "float": (float, "a number"),
    "int": (int, "a whole number"),
    "str": (str, "a string"),
}
SEED_RANGE = f"[0, {1 << 63})"  # torch takes an int64
# of a number that is not 0: float32 holds these, and their products with what else is in a step
SMALLEST, LARGEST = 1e-30, 1e30
RECOMPUTATION = ("auto", "on", "off")  # of activations in the backward pass; no setting, since it changes no result


def setting(
    default: float | int | str,
    help: str,
    *,
    within: str = "",  # an interval of numbers, such as "(0, 1]"
    choices: Iterable[str] = (),
    published: float | None = None,  # shown when a value is refused
    formerly: Sequence[str] = (),  # earlier names, still accepted
    metavar: str = "",
) -> Any:
    """Declare a field of a settings dataclass: its default, its line of help, and the values it accepts."""
    about = {
        "help": help,
        "within": within,
        "choices": tuple(choices),
        "published": published,
        "formerly": tuple(formerly),
        "metavar": metavar,
    }
    return field(default=default, metadata=about)


def checked(item: Field[Any], value: Any, label: str) -> float | int | str:
    """Return a field's value, a float for a number of any kind; ``label`` is the field's name in messages.

    Raises:
        ConfigError: the value is of the wrong type or out of range.
    """
    kind, called = KINDS[str(item.type)]
    numbers = {float: Real, int: Integral}
    if not isinstance(value, numbers.get(kind, kind)) or isinstance(value, bool):
        raise ConfigError(f"{label} must be {called}, not {quoted(value)}")
    if (choices := item.metadata["choices"]) and value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ConfigError(f"{label} must be one of {', '.join(choices)}, not {quoted(value)}{hint}")
    if (interval := item.metadata["within"]) and not _lies_in(value, interval):
        published = item.metadata["published"]
        hint = "" if published is None else f"; the published value is {published:g}"
        verb = "lie" if bounds(interval).startswith("in") else "be"
        raise ConfigError(f"{label} must {verb} {bounds(interval)}, not {quoted(value)}{hint}")
    if kind is float and not _is_workable(value):
        raise ConfigError(f"{label} must be 0 or between {SMALLEST:g} and {LARGEST:g}, not {quoted(value)}")
    converted_value: float | int | str = kind(value)
    return converted_value


def check_fields(settings: Any) -> None:
    """Check every field of a frozen settings dataclass, and store numbers as the field's type.

    Raises:
        ConfigError: names the first field whose value is refused.
    """
    for item in fields(settings):
        label = f"--{item.name.replace('_', '-')}"
        object.__setattr__(settings, item.name, checked(item, getattr(settings, item.name), label))


def converted(item: Field[Any], text: str, name: str) -> float | int | str:
    """Convert text of the command line to the field's type; ``name`` is the field's name in messages.

    Raises:
        ConfigError: the text cannot be converted.
    """
    kind, called = KINDS[str(item.type)]
    try:
        value: float | int | str = kind(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be {called}, not {quoted(text)}") from error
    return value


def check_seeds(seeds: Iterable[object]) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: one is not a whole number, or out of range.
    """
    item = next(item for item in fields(Settings) if item.name == "seed")
    for seed in seeds:
        checked(item, seed, "--seeds")


def bounds(interval: str) -> str:
    """Return an interval in the words of help and messages."""
    if not interval.endswith("inf)"):
        return f"in {interval}"
    low = interval[1:].partition(",")[0]
    return f"{low} or more" if interval[0] == "[" else f"above {low}"


def _is_workable(value: Any) -> bool:
    """Return whether float32 can work with a number."""
    return bool(value == 0 or SMALLEST <= abs(value) <= LARGEST)


def _lies_in(value: Any, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    ends = (interval[0] == "[" or value != low, interval[-1] == "]" or value != high)
    return bool(low <= value <= high and all(ends))


@dataclass(frozen=True, kw_only=True)
class Settings(ABC):
    """Everything that decides the outcome of a search besides the model, the text and the backend.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    mode: ClassVar[str]  # its name on the command line
    summary: ClassVar[str]  # its line in help
    remark: ClassVar[str] = ""  # added to the summary when a search begins
    scope: ClassVar[Scope] = "matrix"  # of a bare percentage; "global" if scores are comparable between matrices
    follows_loss: ClassVar[bool]  # whether a sample needs a backward pass
    moves_weights: ClassVar[bool] = False  # whether it changes the weights of its model
    offloads: ClassVar[bool] = False  # whether what it holds may lie elsewhere than on the device

    metric: str = setting("stochria", f"local metric: {', '.join(METRICS)}", choices=METRICS)
    seed: int = setting(0, "random seed for the order of the text and for random subsets", within=SEED_RANGE)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def announcement(self) -> str:
        """What is said when a search begins."""
        return f"mode {self.mode}, metric {self.metric}: {'; '.join(filter(None, (self.summary, self.remark)))}"

    @abstractmethod
    def search(self) -> type[Search]:
        """Return the class of the mode's search, which is imported no earlier."""

    def start(
        self,
        model: PreTrainedModel,
        layers: Sequence[Layer],
        backend: Backend,
        samples: int,
        world: World | None = None,
        home: Home | None = None,
    ) -> Search:
        """Return the search, ready for its first sample; over ranks, with what this one holds of the layers."""
        return self.search()(model, layers, self, backend, samples, world, home)

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        """Return the bytes held from the first sample to the last, by kind, besides the model and activations.

        Args:
            sizes: elements of each target.
            width: bytes of one element of the loaded weights.
        """
        return {}

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """Return the least memory traffic of a step by operation, in bytes per target weight."""
        return {}

    def steps(self, samples: int) -> int:
        """Return the number of steps of each matrix."""
        return samples

    def patterns(self) -> tuple[SemiStructured, ...]:
        """Return the N:M patterns that the search follows, which every target must fit."""
        return ()

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse targets that do not fit a pattern of the settings.

        Raises:
            ConfigError: the inputs of a target are not a multiple of M.
        """
        for pattern in self.patterns():
            pattern.check(targets)

    def to_json(self) -> dict[str, Any]:
        """Return the record for run.json: the mode and its own fields."""
        return {"mode": self.mode, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class DualSettings(Settings):
    """Settings shared by the modes that hold a dual variable V, with mirror steps towards the local saliency."""

    step_size: float = setting(0.01, "κ, step size of the dual variable", within="(0, 1]", published=0.01)

    def threshold_rank(self, numel: int) -> int | None:
        """Return the rank in |V| of the next threshold τ, or None if τ is fixed."""
        return None

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """Return the traffic, where sums read W, and the mirror step reads W and V and writes V."""
        return {"abs_sums": float(width), "mirror_step": float(8 + width)}


@dataclass(frozen=True, kw_only=True)
class QuantileSettings(DualSettings):
    """Settings shared by the modes whose threshold τ is a quantile of |V|."""

    quantile: float = setting(0.001, "λ, fraction of |V| below the threshold τ", within="[0, 1)", published=0.001)

    def threshold_rank(self, numel: int) -> int:
        return floor(self.quantile * numel)


def pattern_of(text: str, what: str) -> SemiStructured:
    """Parse an N:M pattern; ``what`` is its name in messages.

    Raises:
        ConfigError: the text is not N:M.
    """
    if (pattern := parse_pattern(text)) is None:
        raise ConfigError(f"{what} must be N:M, such as 2:4, not {text!r}")
    return pattern

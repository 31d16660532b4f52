"""The methods that can be compared, their notation on the command line, and the presets.

A method is written ``NAME[/BUDGET][:KEY=VALUE]...``: a name in ``SPECS``, a budget for unstructured sparsities, and
settings of the search; ``samples`` and ``seq_len`` override the common calibration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.allocation import check_multiple, parse_spread
from unipruning_core.sparsity.forms import SemiStructured, Unstructured
from unipruning_core.sparsity.parse import Sparsity, parse_sparsity
from unipruning_core.spelling import did_you_mean
from unipruning_core.storage.documents import quoted

BUDGETS = ("matrix", "row", "global", "model")
KEEPS = ("results", "runs", "checkpoints")  # what stays on disk, each including those before it
CALIBRATION_KEYS = ("samples", "seq_len")
ALLOCATION_KEYS = ("spread", "outlier_multiple")


@dataclass(frozen=True)
class MethodSpec:
    """A method before the user's choices: its search, and its default budget."""

    budget: str  # default, for unstructured sparsities
    settings: Mapping[str, str | float] = field(default_factory=dict)  # of the search
    budgets: Sequence[str] = BUDGETS
    patterns_only: bool = False  # N:M only; other sparsities have no row
    uses_text: bool = True  # if not, one sample and one seed suffice
    changes_weights: bool = False  # no search: one run per sparsity gives weights and masks
    scores_of: str = ""  # the method whose search it uses, if it has none of its own
    scheme: str = ""  # of 'unipruning allocate', which makes a budget for each ratio
    budget_source: str = ""  # the method whose search that budget comes from, if another


def _frozen(metric: str, budget: str, *, uses_text: bool = True) -> MethodSpec:
    return MethodSpec(budget, {"mode": "frozen", "metric": metric}, uses_text=uses_text)


# the source of each method, and the reason for its budget: docs/comparing.md
SPECS: Mapping[str, MethodSpec] = {
    "magnitude": _frozen("magnitude", "matrix", uses_text=False),
    "wanda": _frozen("wanda", "row"),
    "ria": _frozen("ria", "row"),
    "stochria": _frozen("stochria", "row"),
    "owl": MethodSpec("blocks", budgets=("blocks",), scores_of="wanda", scheme="owl"),
    "fisher-rows": MethodSpec(
        "rows",
        budgets=("rows",),
        scores_of="wanda",
        scheme="fisher",
        budget_source="feedback:local_exponent=0:ramp_sparsity=0:learning_rate=0",
    ),
    "drift": MethodSpec("row", {"mode": "drift"}),
    "feedback": MethodSpec("global", {"mode": "feedback"}),
    "sparsegpt": MethodSpec("matrix", budgets=("matrix",), changes_weights=True),
    "prox": MethodSpec("row", {"mode": "drift", "prox_strength": 0.05}, patterns_only=True),
}
# all presets in one place, so that a setting is renamed only here
PRESETS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "peers": (
        ("wanda", "the usual baseline"),
        ("wanda/matrix", ""),
        ("ria", ""),
        ("stochria", ""),
        ("owl", "Wanda with a sparsity ratio for each decoder block"),
        ("fisher-rows", "Wanda with a sparsity ratio for each row"),
        ("drift/row", "the release, with its defects fixed"),
        ("drift/matrix", ""),
        ("drift/global", ""),
        ("prox", "the release, with a regulariser that takes effect"),
        ("magnitude", ""),
        ("sparsegpt", "changes the kept weights; all others only mask"),
        ("feedback", "the method of this program"),
        ("feedback:pattern=2:4", "the same, searched for this pattern"),
    ),
    "ablation": (
        ("feedback", "the whole method"),
        ("feedback:ramp_fraction=0.001", "without the ramp: at full sparsity from the second sample on"),
        ("feedback:ramp_sparsity=0", "without masks: the gradient at dense weights"),
        ("feedback:learning_rate=0", "without drift, and so without its direction"),
        ("feedback:drift_weight=0", "without the direction of the drift in the score"),
        ("feedback:local_exponent=0", "without the local metric"),
        ("feedback:metric=stochria", "another local metric"),
        ("feedback:metric=magnitude", "a local metric that uses no text"),
        ("feedback/matrix", "without the global budget"),
        ("feedback/row", "with a per-row budget"),
        ("drift/row", "the gradient only in the drift"),
        ("stochria/row", "no gradient at all"),
    ),
    "sensitivity": (
        ("feedback", "with its defaults"),
        *((f"feedback:samples={samples}", "samples") for samples in (8, 16, 32, 128)),
        *((f"feedback:seq_len={length}", "tokens per sample") for length in (256, 512)),
        *(
            (f"feedback:second_moment_rate={rate}", "γ, how fast v follows the squared gradient")
            for rate in (0.02, 0.1)
        ),
        *((f"feedback:drift_weight={weight}", "weight of the drift's direction") for weight in (0.004, 0.015)),
        *((f"feedback:ramp_sparsity={ratio}", "sparsity at the end of the ramp") for ratio in (0.5, 0.6, 0.8)),
        *(
            (f"feedback:local_exponent={exponent}", "exponent of the local metric in the score")
            for exponent in (0.5, 2)
        ),
    ),
}


@dataclass(frozen=True)
class Method:
    """One method as the user wrote it."""

    name: str
    budget: str
    overrides: Mapping[str, str] = field(default_factory=dict)  # settings and CALIBRATION_KEYS, in the order written

    @property
    def spec(self) -> MethodSpec:
        return SPECS[self.name]

    @property
    def label(self) -> str:
        """The method's text without its budget."""
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.overrides.items())])

    @property
    def scores(self) -> Method:
        """The method whose search gives the scores: this one, or the one it builds on."""
        kept = {key: value for key, value in self.overrides.items() if key not in ALLOCATION_KEYS}
        return Method(self.spec.scores_of, self.budget, kept) if self.spec.scores_of else self

    @property
    def budget_source(self) -> Method | None:
        """The method whose search gives the budget, if another, with the same calibration; else None."""
        if not self.spec.budget_source:
            return None
        method = parse_method(self.spec.budget_source)
        kept = {key: value for key, value in self.overrides.items() if key in CALIBRATION_KEYS}
        return Method(method.name, method.budget, {**method.overrides, **kept})

    @property
    def allocation(self) -> dict[str, str]:
        """The options of 'unipruning allocate'; empty if the method makes no budget."""
        if not self.spec.scheme:
            return {}
        return {"scheme": self.spec.scheme} | {k: v for k, v in self.overrides.items() if k in ALLOCATION_KEYS}

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its search that differ from the defaults, as text for the command line."""
        defaults = {key: str(value) for key, value in self.spec.settings.items()}
        return defaults | {key: value for key, value in self.overrides.items() if key not in CALIBRATION_KEYS}

    def calibration(self, key: str, common: int) -> int:
        """Return ``samples`` or ``seq_len`` of this method."""
        if key == "samples" and not self.spec.uses_text:
            return 1
        return int(self.overrides.get(key, common))

    def with_budget(self, sparsity: Sparsity) -> Sparsity | None:
        """Return a sparsity with this method's budget; None if the method does not support it."""
        if "pattern" in self.overrides:
            return sparsity if str(sparsity) == self.overrides["pattern"] else None
        if isinstance(sparsity, SemiStructured):
            return None if self.spec.scheme else sparsity
        if self.spec.patterns_only:
            return None
        return sparsity if self.spec.scheme else parse_sparsity(f"{sparsity}/{self.budget}")


def parse_method(text: str) -> Method:
    """Parse ``NAME[/BUDGET][:KEY=VALUE]...``.

    Raises:
        ConfigError: no method has the name, it has no such budget, or a setting is not KEY=VALUE.
    """
    # a colon inside a value, as in pattern=2:4, is not followed by KEY=
    head, *assignments = re.split(r":(?=\w+=)", text)
    name, slash, budget = head.partition("/")
    if name not in SPECS:
        raise ConfigError(f"method must be one of {', '.join(SPECS)}, not {name!r}{did_you_mean(name, SPECS)}")
    spec = SPECS[name]
    if slash and budget not in spec.budgets:
        hint = did_you_mean(budget, spec.budgets)
        raise ConfigError(f"the budget of {name!r} must be one of {', '.join(spec.budgets)}, not {budget!r}{hint}")
    overrides: dict[str, str] = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if not value or key in overrides or key == "seed":
            raise ConfigError(
                f"settings of method {text!r} must be written :KEY=VALUE, each once, not {assignment!r};"
                " seeds are the same for all methods, see --seeds"
            )
        if key in CALIBRATION_KEYS and not re.fullmatch("[0-9]{1,9}", value):
            raise ConfigError(f"{key} of method {text!r} must be a whole number below 10^9, not {quoted(value)}")
        if key in ALLOCATION_KEYS and spec.scheme:
            _check_number(text, key, value)
        overrides[key] = value
    return Method(name, budget or spec.budget, overrides)


def _check_number(text: str, key: str, value: str) -> None:
    name = f"{key} of method {text!r}"
    if key == "spread":
        parse_spread(value, name)
        return
    try:
        multiple = float(value)
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, not {quoted(value)}") from error
    check_multiple(multiple, name)


def parse_methods(texts: Iterable[str], presets: Iterable[str]) -> tuple[list[Method], dict[str, str]]:
    """Return the methods of the presets, then those of the comma-separated texts, each once, and the presets' remarks.

    Raises:
        ConfigError: there is no method, or one cannot be parsed.
    """
    methods: list[Method] = []
    remarks: dict[str, str] = {}
    for preset in presets:
        if preset not in PRESETS:
            hint = did_you_mean(preset, PRESETS)
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}{hint}")
        for text, remark in PRESETS[preset]:
            methods.append(parse_method(text))
            if remark:
                remarks[text] = remark
    methods += [parse_method(name) for text in texts for name in text.split(",") if name]
    unique = {(method.label, method.budget): method for method in methods}
    if not unique:
        raise ConfigError("no method was given; pass at least one with --methods, such as 'wanda,feedback'")
    return list(unique.values()), remarks


def parse_ratios(texts: Iterable[str]) -> list[Sparsity]:
    """Parse the sparsities to compare at: "60%" or "2:4"; the budget belongs to the method."""
    parsed = [parse_sparsity(text) for text in texts]
    for text, sparsity in zip(texts, parsed, strict=True):
        if isinstance(sparsity, Unstructured) and sparsity.scope != "auto":
            raise ConfigError(
                f"sparsity {text!r} names a budget, which belongs to the method here; write {text.partition('/')[0]!r}"
                f" and, for example, wanda/{sparsity.scope}"
            )
    return list(dict.fromkeys(parsed))

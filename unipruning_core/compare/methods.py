"""The methods that can be compared, how they are written on the command line, and the presets.

A method is written ``NAME[/BUDGET][:KEY=VALUE]...``: a name of ``SPECS``, a budget for unstructured sparsities, and
settings of the search; ``samples`` and ``seq_len`` set its calibration apart from the others'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.forms import SemiStructured, Unstructured
from unipruning_core.sparsity.parse import Sparsity, parse_sparsity

BUDGETS = ("matrix", "row", "global")
CALIBRATION_KEYS = ("samples", "seq_len")
ALLOCATION_KEYS = ("spread", "outlier_multiple")


@dataclass(frozen=True)
class MethodSpec:
    """A method before any choice of the user: the search it is, and the budget that suits it."""

    budget: str  # of unstructured sparsities, where none is named
    settings: Mapping[str, str | float] = field(default_factory=dict)  # of the search
    budgets: Sequence[str] = BUDGETS
    patterns_only: bool = False  # made for N:M, so other sparsities have no row
    uses_text: bool = True  # else one sample and one seed say all
    changes_weights: bool = False  # no search: weights and masks come together, once a sparsity
    scores_of: str = ""  # the method whose search it takes, where it has none of its own
    scheme: str = ""  # of 'unipruning allocate', which makes a budget for each share
    budget_source: str = ""  # the method whose search that budget is made from, where it is another one


def _frozen(metric: str, budget: str, *, uses_text: bool = True) -> MethodSpec:
    return MethodSpec(budget, {"mode": "frozen", "metric": metric}, uses_text=uses_text)


# where a method comes from, and why its budget: docs/comparing.md
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
# every preset in one place: a renamed setting is renamed here alone
PRESETS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "peers": (
        ("wanda", "the usual baseline"),
        ("wanda/matrix", ""),
        ("ria", ""),
        ("stochria", ""),
        ("owl", "Wanda with a share of its own for each decoder block"),
        ("fisher-rows", "Wanda with a share of its own for each row"),
        ("drift/row", "the release, mended"),
        ("drift/matrix", ""),
        ("drift/global", ""),
        ("prox", "the release with a regulariser that acts"),
        ("magnitude", ""),
        ("sparsegpt", "changes the weights that stay; all others are masks alone"),
        ("feedback", "this program's"),
        ("feedback:pattern=2:4", "the same, searched for the pattern"),
    ),
    "ablation": (
        ("feedback", "the whole method"),
        ("feedback:ramp_fraction=0.001", "without the ramp: at full sparsity from the second sample on"),
        ("feedback:ramp_sparsity=0", "without masks: the gradient at dense weights"),
        ("feedback:learning_rate=0", "without drift, and so without its direction"),
        ("feedback:drift_weight=0", "without the direction of the drift in the score"),
        ("feedback:local_exponent=0", "without the local metric"),
        ("feedback:metric=stochria", "another local metric"),
        ("feedback:metric=magnitude", "a local metric that sees no text"),
        ("feedback/matrix", "without the global budget"),
        ("feedback/row", "with a budget for each output row"),
        ("drift/row", "the gradient in the drift alone"),
        ("stochria/row", "no gradient at all"),
    ),
    "sensitivity": (
        ("feedback", "as it is"),
        *((f"feedback:samples={samples}", "samples") for samples in (8, 16, 32, 128)),
        *((f"feedback:seq_len={length}", "tokens a sample") for length in (256, 512)),
        *((f"feedback:step_size={step}", "κ, how fast V follows") for step in (0.003, 0.03)),
        *((f"feedback:second_moment_rate={step}", "how fast AdamW's second moment follows") for step in (0.02, 0.1)),
        *((f"feedback:drift_weight={pull}", "of the drift's direction") for pull in (0.004, 0.015)),
        *((f"feedback:ramp_sparsity={share}", "where the ramp ends") for share in (0.5, 0.6, 0.8)),
        *((f"feedback:local_exponent={exponent}", "of V in the score") for exponent in (0.5, 2)),
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
        """The method without its budget."""
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.overrides.items())])

    @property
    def scores(self) -> Method:
        """The method whose search gives the scores: itself, or the one it builds on."""
        kept = {key: value for key, value in self.overrides.items() if key not in ALLOCATION_KEYS}
        return Method(self.spec.scores_of, self.budget, kept) if self.spec.scores_of else self

    @property
    def budget_source(self) -> Method | None:
        """The method whose search gives the budget, where that is another one, on the same calibration."""
        if not self.spec.budget_source:
            return None
        method = parse_method(self.spec.budget_source)
        kept = {key: value for key, value in self.overrides.items() if key in CALIBRATION_KEYS}
        return Method(method.name, method.budget, {**method.overrides, **kept})

    @property
    def allocation(self) -> dict[str, str]:
        """What 'unipruning allocate' is told; nothing where no budget is made."""
        if not self.spec.scheme:
            return {}
        return {"scheme": self.spec.scheme} | {k: v for k, v in self.overrides.items() if k in ALLOCATION_KEYS}

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its search that are no defaults, as the command line takes them."""
        own = {key: str(value) for key, value in self.spec.settings.items()}
        return own | {key: value for key, value in self.overrides.items() if key not in CALIBRATION_KEYS}

    def calibration(self, key: str, common: int) -> int:
        """``samples`` or ``seq_len`` of this method."""
        if key == "samples" and not self.spec.uses_text:
            return 1
        return int(self.overrides.get(key, common))

    def with_budget(self, sparsity: Sparsity) -> Sparsity | None:
        """A sparsity under this method's budget; None where the method is not made for it."""
        if "pattern" in self.overrides:
            return sparsity if str(sparsity) == self.overrides["pattern"] else None
        if isinstance(sparsity, SemiStructured):
            return None if self.spec.scheme else sparsity
        if self.spec.patterns_only:
            return None
        return sparsity if self.spec.scheme else parse_sparsity(f"{sparsity}/{self.budget}")


def parse_method(text: str) -> Method:
    """Read ``NAME[/BUDGET][:KEY=VALUE]...``.

    Raises:
        ConfigError: no method has the name, or it takes no such budget; a setting is not KEY=VALUE.
    """
    # a colon inside a value, as in pattern=2:4, is followed by no key
    head, *assignments = re.split(r":(?=\w+=)", text)
    name, slash, budget = head.partition("/")
    if name not in SPECS:
        raise ConfigError(f"methods are {', '.join(SPECS)}, not {name!r}")
    recipe = SPECS[name]
    if slash and budget not in recipe.budgets:
        raise ConfigError(f"the budget of {name!r} is one of {', '.join(recipe.budgets)}, not {budget!r}")
    overrides: dict[str, str] = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if not value or key in overrides or key == "seed":
            raise ConfigError(
                f"settings of method {text!r} are written :KEY=VALUE, each once, not {assignment!r};"
                " seeds are the same for all methods, see --seeds"
            )
        if key in CALIBRATION_KEYS and not value.isdecimal():
            raise ConfigError(f"{key} of method {text!r} must be a whole number, not {value!r}")
        if key in ALLOCATION_KEYS and recipe.scheme:
            _check_number(text, key, value)
        overrides[key] = value
    return Method(name, budget or recipe.budget, overrides)


def _check_number(text: str, key: str, value: str) -> None:
    try:
        float(value)
    except ValueError as error:
        raise ConfigError(f"{key} of method {text!r} must be a number, not {value!r}") from error


def parse_methods(texts: Iterable[str], presets: Iterable[str]) -> tuple[list[Method], dict[str, str]]:
    """The methods of the presets, then those of the texts (names with commas), each once; and what presets say of them.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    methods: list[Method] = []
    remarks: dict[str, str] = {}
    for preset in presets:
        if preset not in PRESETS:
            raise ConfigError(f"presets are {', '.join(PRESETS)}, not {preset!r}")
        for text, remark in PRESETS[preset]:
            methods.append(parse_method(text))
            if remark:
                remarks[text] = remark
    methods += [parse_method(word) for text in texts for word in text.split(",") if word]
    unique = {(method.label, method.budget): method for method in methods}
    if not unique:
        raise ConfigError("at least one method is wanted; name some with --methods, such as 'wanda,feedback'")
    return list(unique.values()), remarks


def parse_ratios(texts: Iterable[str]) -> list[Sparsity]:
    """Sparsities to compare at: "60%" or "2:4"; the budget belongs to the method."""
    parsed = [parse_sparsity(text) for text in texts]
    for text, sparsity in zip(texts, parsed, strict=True):
        if isinstance(sparsity, Unstructured) and sparsity.scope != "auto":
            raise ConfigError(
                f"sparsity {text!r} names a budget, which belongs to the method here; write {text.partition('/')[0]!r}"
                f" and, say, wanda/{sparsity.scope}"
            )
    return list(dict.fromkeys(parsed))

"""A budget: the sparsity of each matrix, from a file, with an exact overall ratio.

The file is one JSON object::

    {
      "overall": "60%",
      "default": "60%",
      "sparsity": {
        "model.layers.0.*": "dense",
        "*.mlp.down_proj.weight": "50%",
        "*.self_attn.*": "2:4",
        "model.layers.1.mlp.up_proj.weight": "70%/row"
      }
    }

The keys of ``sparsity`` are target names, as in the checkpoint, or patterns with ``*``, ``?`` and ``[...]``; ``*``
matches dots too.  A target's own name takes precedence over patterns, then the first matching pattern applies, then
``default``.  A value is ``dense``, a ratio of the matrix (``60%``) or of each row (``60%/row``), N:M, or exact counts
of kept weights: ``{"keep": 1000}`` for the matrix or ``{"keep_rows": [10, 12, ...]}`` for its rows.

With ``overall`` the kept counts of all ratios are scaled by one common factor, so that exactly round((1 - p) * size)
weights are kept over all targets together; ``dense``, N:M and exact counts do not change.  A matrix that the factor
would take beyond its size stays dense, and the others keep the remainder.  Rounding is by largest remainders, ties to
the earlier target; where a per-row count does not divide evenly, the first rows keep one weight more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import ConfigError, reason_and_remedy
from unipruning_core.sparsity.apportion import apportion
from unipruning_core.sparsity.forms import (
    Kept,
    KeptRows,
    MatrixSparsity,
    SemiStructured,
    Unstructured,
    kept_weights,
    parse_cut,
)
from unipruning_core.storage.documents import quoted, read_json

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Target

FORMS = "'dense', a ratio such as '60%' or '60%/row', N:M such as '2:4', {'keep': N} or {'keep_rows': [N, ...]}"
NAMES = ("overall", "default", "sparsity")


@dataclass(frozen=True)
class Budget:
    """The content of a budget file.  ``rules`` are tried in order, after exact names."""

    name: str  # of the file, for messages and folders
    rules: tuple[tuple[str, MatrixSparsity], ...]  # target name or pattern, and the sparsity of its matches
    default: MatrixSparsity | None = None
    overall: Fraction | None = None  # sparsity ratio of all targets together

    def __str__(self) -> str:
        return f"@{self.name}"

    @property
    def slug(self) -> str:
        """The name of this sparsity's folder."""
        return Path(self.name).stem.lstrip(".") or "budget"

    @classmethod
    def read(cls, path: str | Path) -> Budget:
        """Read a budget file.

        Raises:
            ConfigError: it is missing, not a regular file, too large, not JSON, or invalid.
        """
        path = Path(path)
        try:
            content = read_json(path)
        except OSError as error:
            reason = reason_and_remedy(error, "pass a budget file, such as one that 'unipruning allocate' wrote", path)
            raise ConfigError(f"budget {str(path)!r} cannot be read: {reason}") from error
        except ValueError as error:
            raise ConfigError(f"budget {str(path)!r} is not valid JSON: {error}; correct the file") from error
        return cls.from_json(path.name, content)

    @classmethod
    def from_json(cls, name: str, content: Any) -> Budget:
        """Build a budget from the object in its file; messages call it ``name``."""
        rules = content.get("sparsity") if isinstance(content, dict) else None
        if not isinstance(rules, dict) or set(content) - set(NAMES):
            raise ConfigError(
                f"budget {name!r} must be an object with 'sparsity', an object of patterns, and optionally 'overall'"
                " and 'default'; correct the file"
            )
        overall = parse_cut(content["overall"]) if isinstance(content.get("overall"), str) else None
        if "overall" in content and not (isinstance(overall, Unstructured) and overall.scope != "row"):
            raise ConfigError(
                f"'overall' in budget {name!r} must be a ratio such as '60%', not {quoted(content['overall'])}"
            )
        return cls(
            name,
            tuple((pattern, _cut(value, pattern, name)) for pattern, value in rules.items()),
            _cut(content["default"], "default", name) if "default" in content else None,
            overall.ratio if isinstance(overall, Unstructured) else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that reads back as this budget."""
        content: dict[str, Any] = {}
        if self.overall is not None:
            content["overall"] = str(Unstructured(self.overall))
        if self.default is not None:
            content["default"] = _value(self.default)
        return {**content, "sparsity": {pattern: _value(cut) for pattern, cut in self.rules}}

    def to_text(self) -> str:
        """Return the text of a budget file, one line per rule."""
        content = self.to_json()
        rules = [f"  {json.dumps(pattern)}: {json.dumps(value)}" for pattern, value in content.pop("sparsity").items()]
        heads = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in content.items()]
        return "\n".join(["{", *heads, ' "sparsity": {', ",\n".join(rules), " }", "}"]) + "\n"

    def check(self, targets: Iterable[Target]) -> None:
        """Refuse targets that the budget does not fit."""
        self.cuts(tuple(targets))

    def cuts(self, targets: Sequence[Target]) -> dict[str, MatrixSparsity]:
        """Return the sparsity of each target, by name and in their order; ``overall`` turns ratios into counts.

        Raises:
            ConfigError: a target without a rule, a rule without a target, one that does not fit its matrix, or an
                overall ratio that cannot be met.
        """
        cuts = self._decided(targets)
        for target in targets:
            self._check_fit(target, cuts[target.name])
        return cuts if self.overall is None else self._scaled(targets, cuts, self.overall)

    def _decided(self, targets: Sequence[Target]) -> dict[str, MatrixSparsity]:
        exact, matched = dict(self.rules), set()
        cuts: dict[str, MatrixSparsity] = {}
        for target in targets:
            matches = (pattern for pattern, _ in self.rules if fnmatchcase(target.name, pattern))
            rule = target.name if target.name in exact else next(matches, None)
            if rule is not None:
                matched.add(rule)
                cuts[target.name] = exact[rule]
            elif self.default is not None:
                cuts[target.name] = self.default
            else:
                raise ConfigError(
                    f"budget {self.name!r} has no rule for target {target.name!r}; add a pattern for it or a 'default'"
                )
        if unmatched := [pattern for pattern, _ in self.rules if pattern not in matched]:
            raise ConfigError(
                f"pattern {unmatched[0]!r} of budget {self.name!r} matches no target, or only targets that other"
                " rules match first; correct, move or remove it"
            )
        return cuts

    def _check_fit(self, target: Target, cut: MatrixSparsity) -> None:
        rows, columns = target.shape
        if isinstance(cut, SemiStructured):
            cut.check([target])
        fits = True
        if isinstance(cut, Kept):
            fits = cut.weights <= rows * columns
        elif isinstance(cut, KeptRows):
            fits = len(cut.weights) == rows and max(cut.weights) <= columns
        if not fits:
            raise ConfigError(
                f"budget {self.name!r} has counts of kept weights that do not fit target {target.name!r} of {rows} rows"
                f" and {columns} inputs; make a budget for this model"
            )

    def _scaled(
        self, targets: Sequence[Target], cuts: Mapping[str, MatrixSparsity], overall: Fraction
    ) -> dict[str, MatrixSparsity]:
        total = sum(rows * columns for rows, columns in (target.shape for target in targets))
        total_kept = Unstructured(overall).keep(total)
        scalable = {t.name: cut for t in targets if isinstance(cut := cuts[t.name], Unstructured)}
        fixed = sum(kept_weights(cuts[target.name], target.shape) for target in targets if target.name not in scalable)
        sizes = {target.name: target.size for target in targets if target.name in scalable}
        if not fixed <= total_kept <= fixed + sum(sizes.values()):
            raise ConfigError(
                f"budget {self.name!r} cannot meet 'overall' {str(Unstructured(overall))!r}, which keeps {total_kept}"
                f" of {total} weights: dense, N:M and exact counts keep {fixed}, and ratios can add at most"
                f" {sum(sizes.values())}; change one of them"
            )
        counts = apportion(
            [(1 - cut.ratio) * sizes[name] for name, cut in scalable.items()],
            total_kept - fixed,
            [0] * len(scalable),
            list(sizes.values()),
        )
        counts_by_name = dict(zip(scalable, counts, strict=True))
        return {
            target.name: _counted(scalable[target.name], counts_by_name[target.name], target.shape[0])
            if target.name in scalable
            else cuts[target.name]
            for target in targets
        }


def _counted(cut: Unstructured, weights: int, rows: int) -> MatrixSparsity:
    if cut.scope == "matrix":
        return Kept(weights)
    each, more = divmod(weights, rows)
    return KeptRows(tuple(each + (row < more) for row in range(rows)))


def _cut(value: Any, where: str, name: str) -> MatrixSparsity:
    parsed = parse_cut(value) if isinstance(value, str) else None
    match value:
        case {"keep": weights, **more} if not more and _is_count(weights):
            return Kept(weights)
        case {"keep_rows": [_, *_] as rows, **more} if not more and all(map(_is_count, rows)):
            return KeptRows(tuple(rows))
    if parsed is None:
        raise ConfigError(f"{where!r} in budget {name!r} must be {FORMS}, not {quoted(value)}")
    return parsed


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _value(cut: MatrixSparsity) -> Any:
    if isinstance(cut, Kept):
        return {"keep": cut.weights}
    return {"keep_rows": list(cut.weights)} if isinstance(cut, KeptRows) else str(cut)

"""A choice of targets applied to one model: which matrices its patterns match, and whether each has an effect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.models.choice import REGEX, TargetChoice, compiled

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.layer import Layer
    from unipruning_core.models.names import Names

NOT_INCLUDED = "matches no --include"
CLOSE, SPREAD, SUGGESTED = 0.6, 0.1, 3  # names that may have been meant: how alike, how much less than the best
LIST = "'unipruning targets MODEL --all' lists the names"


class Chosen:
    """The patterns of a choice, compared with the names of a matrix in the model and in the checkpoint.

    The path of its module, which is the name without ``.weight``, counts as a name too.
    """

    def __init__(
        self,
        choice: TargetChoice,
        matrices: Iterable[tuple[str, Tensor]],  # parameters by name, a shared one under each
        names: Names,
    ) -> None:
        self._choice, self._names = choice, names
        self._include = {pattern: compiled(pattern, "--include") for pattern in choice.include}
        self._exclude = {pattern: compiled(pattern, "--exclude") for pattern in choice.exclude}
        by_parameter: dict[int, list[str]] = {}
        self._called: dict[str, list[str]] = {}  # all names in the model, by any of them
        for name, parameter in matrices:
            self._called[name] = by_parameter.setdefault(id(parameter), [])
            self._called[name] += _with_path(name)
        self._used: set[str] = set()
        self._refused: dict[str, str] = {}  # by pattern of --include: why a matrix that it matches cannot be pruned
        self._seen: dict[str, None] = {}

    def why_not(self, name: str, *, stacked: bool) -> str | None:
        """Return why a whole parameter stays dense, if it does; of one that holds several, each is looked at later."""
        called = self._called[name]
        stored = self._stored(*called)
        whole = [*called, *stored] if len(stored) <= 2 else called
        included = self._included([*called, *stored])
        return self._excluded(whole) or (None if stacked or included else NOT_INCLUDED)

    def refused(self, name: str, why: str) -> None:
        """Note that a parameter cannot be pruned, even if it is asked for."""
        for pattern in self._matched(self._include, [*_with_path(name), *self._stored(name)]):
            self._refused.setdefault(pattern, f"{name!r} is {why}")

    def divided(self, layers: Iterable[Layer]) -> tuple[list[Layer], list[tuple[str, str, tuple[int, ...]]]]:
        """Return the layers to prune, and of the others the name, the reason and the shape.

        Raises:
            ConfigError: a pattern has no effect, or nothing is left to prune.
        """
        pruned: list[Layer] = []
        dense: dict[tuple[str, str], list[Layer]] = {}
        asked: set[str] = set()
        for layer in layers:
            names = [*self._called[layer.name_in_model], *_with_path(layer.name), *_with_path(layer.target.tensor)]
            included = self._included(names)
            if why := self._excluded(names) or (None if included else NOT_INCLUDED):
                dense.setdefault((layer.name_in_model, why), []).append(layer)
            else:
                pruned.append(layer)
                asked.update(self._matched(self._include, names))
        self._check_used()
        for pattern, why in self._refused.items():
            if pattern not in asked:
                raise ConfigError(f"--include {pattern!r} matches no matrix that can be pruned: {why}; {LIST}")
        if self._choice and not pruned:
            raise ConfigError(f"--include and --exclude leave nothing to prune; {LIST}")
        left_out: list[tuple[str, str, tuple[int, ...]]] = []
        for (name, why), of_one in dense.items():
            # all matrices of one parameter are told of as one
            stack = of_one[0].stack
            if stack is not None and len(of_one) == sum(map(len, stack.parts)):
                left_out.append((name, why, tuple(stack.parameter.shape)))
            else:
                left_out += [(layer.name, why, layer.target.stored_shape) for layer in of_one]
        return pruned, left_out

    def _stored(self, *parameters: str) -> list[str]:
        """Return the names in the checkpoint of what these hold, two for each tensor."""
        pieces = (piece for name in parameters for piece in self._names.pieces.get(name, ()))
        return [other for piece in pieces for other in _with_path(piece.tensor)]

    def _excluded(self, names: Sequence[str]) -> str | None:
        matched = self._matched(self._exclude, names)
        return f"excluded by --exclude {matched[0]!r}" if matched else None

    def _included(self, names: Sequence[str]) -> bool:
        return not self._include or bool(self._matched(self._include, names))

    def _matched(self, patterns: Mapping[str, re.Pattern[str]], names: Sequence[str]) -> list[str]:
        if not self._choice:
            return []
        self._seen.update(dict.fromkeys(names))
        matched = [pattern for pattern, regex in patterns.items() if any(map(regex.fullmatch, names))]
        self._used.update(matched)
        return matched

    def _check_used(self) -> None:
        for flag, patterns in (("--include", self._include), ("--exclude", self._exclude)):
            for pattern in patterns:
                if pattern not in self._used:
                    near = ", ".join(map(repr, _near(pattern, self._seen)))
                    hint = f"similar names are {near}" if near else LIST
                    raise ConfigError(f"{flag} {pattern!r} matches no matrix of the model; {hint}")


def _with_path(name: str) -> tuple[str, str]:
    return name, name.rpartition(".")[0]


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    """Return what may have been meant, with * for the numbers of layers: names some part of which is like it."""
    wanted = pattern.removeprefix(REGEX).strip("*.^$")
    found: dict[str, float] = {}
    for name in dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names):
        parts = name.split(".")
        runs = (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
        found[name] = max(SequenceMatcher(None, wanted, run).ratio() for run in runs)
    least = max(CLOSE, max(found.values(), default=0) - SPREAD)
    return sorted((name for name, ratio in found.items() if ratio >= least), key=lambda name: -found[name])[:SUGGESTED]

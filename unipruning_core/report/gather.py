"""What a report shows of searches and pruned checkpoints, read from their folders, without a picture of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unipruning_core.errors import ConfigError
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import MaskFile, read_masks
from unipruning_core.projection.report import EMPTY, read_report
from unipruning_core.report.folders import Folders
from unipruning_core.report.places import Place, places_of
from unipruning_core.report.scores import Scored, look_at_scores
from unipruning_core.search.run_document import TRACE
from unipruning_core.search.run_folder import Run


@dataclass(frozen=True)
class Cell:
    """The counts of the matrices of one place: one, or the experts of a layer."""

    place: Place
    asked: str
    matrices: int
    kept: int
    total: int
    empty_rows: int | None  # None where the report of the checkpoint lacks it
    empty_columns: int | None
    lost: float | None  # fraction of the scores, None without the search

    @property
    def sparsity(self) -> float:
        return (self.total - self.kept) / self.total


@dataclass(frozen=True)
class Searched:
    """One run folder."""

    path: Path
    label: str
    run: Run

    @property
    def losses(self) -> list[float]:
        return list(self.run.description.get("losses", []))

    @property
    def thresholds(self) -> list[float]:
        return list(self.run.description.get(TRACE, []))

    @property
    def left_out(self) -> dict[str, str]:
        """Why each matrix that is no target stays dense."""
        return dict(self.run.description.get("left_out", {}))


@dataclass(frozen=True)
class Pruned:
    """One pruned checkpoint."""

    path: Path
    label: str
    report: dict[str, Any]
    masks: MaskFile
    search: Searched | None  # that its masks were made from, if it was given
    lost: dict[str, tuple[float, float]] = field(default_factory=dict)  # scores pruned and all, summed, by target

    @property
    def sparsity(self) -> float:
        """The fraction of the target weights that the masks prune."""
        return float(self.report["overall"]["sparsity"])

    @property
    def method(self) -> str:
        """The mode and metric of the search, or what made the scores."""
        settings = self.report["provenance"].get("settings", {})
        words = [str(settings[name]) for name in ("mode", "metric") if name in settings]
        return " ".join(words) or str(self.report["provenance"].get("method", "other scores"))

    @property
    def lost_of_all(self) -> float | None:
        """The fraction of the scores of all targets together that the masks prune."""
        pruned, all_ = (sum(column) for column in zip(*self.lost.values(), strict=True)) if self.lost else (0.0, 0.0)
        return pruned / all_ if all_ else None

    @property
    def cells(self) -> list[Cell]:
        """The counts by place, in the order of the checkpoint."""
        places = places_of(self.report["matrices"])
        groups: dict[Place, list[str]] = {}
        for name, place in places.items():
            groups.setdefault(place, []).append(name)
        return [self._cell(place, names) for place, names in groups.items()]

    def _cell(self, place: Place, names: list[str]) -> Cell:
        entries = [self.report["matrices"][name] for name in names]
        pruned, all_ = (sum(self.lost.get(name, (0.0, 0.0))[part] for name in names) for part in (0, 1))
        rows, columns = (
            sum(entry[key] for entry in entries) if all(key in entry for entry in entries) else None for key in EMPTY
        )
        asked = ", ".join(dict.fromkeys(entry["asked"] for entry in entries))
        kept, total = (sum(entry[key] for entry in entries) for key in ("kept", "total"))
        return Cell(place, asked, len(names), kept, total, rows, columns, pruned / all_ if all_ else None)


@dataclass(frozen=True)
class Gathered:
    """All that was read."""

    searches: tuple[Searched, ...]
    outputs: tuple[Pruned, ...]
    scored: dict[str, Scored]  # by the label of the search

    @property
    def model(self) -> str:
        """The name of the model, as the first folder records it."""
        described: list[Any] = [search.run.description for search in self.searches]
        described += [output.report["provenance"] for output in self.outputs]
        names = [one["model"]["name"] for one in described if "name" in one.get("model", {})]
        return str(names[0]) if names else "a model in memory"


def gather(folders: Folders, progress: Progress) -> Gathered:
    """Read the folders, and the scores of every search once.

    Raises:
        RunError: a run folder cannot be read.  CheckpointError: a pruned checkpoint cannot.
        ConfigError: they are of different models.
    """
    labels = folders.labels
    searches = [Searched(path, labels[path], Run.open(path)) for path in folders.runs]
    outputs = [_output(path, labels[path], searches, progress) for path in folders.outputs]
    prints = {search.run.fingerprint: search.path for search in searches}
    prints |= {output.report["model_fingerprint"]: output.path for output in outputs}
    if len(prints) > 1:
        first, second = list(prints.values())[:2]
        raise ConfigError(
            f"a report is of one model, and {str(first)!r} and {str(second)!r} are of two; write a report for each"
        )
    scored: dict[str, Scored] = {}
    lost: dict[str, dict[str, tuple[float, float]]] = {}
    for search in searches:
        masks = {output.label: output.masks for output in outputs if output.search is search}
        scored[search.label] = look_at_scores(search.run, masks, progress)
        lost |= scored[search.label].lost
    outputs = [replace(output, lost=lost.get(output.label, {})) for output in outputs]
    return Gathered(tuple(searches), tuple(outputs), scored)


def _output(path: Path, label: str, searches: Iterable[Searched], progress: Progress) -> Pruned:
    report, masks = read_report(path), read_masks(path, progress)
    return Pruned(path, label, report, masks, next(_made_of(report, masks, searches), None))


def _made_of(report: dict[str, Any], masks: MaskFile, searches: Iterable[Searched]) -> Iterator[Searched]:
    """Yield the searches whose record is that of a checkpoint; earlier reports have less of it."""
    recorded = report["provenance"]
    for search in searches:
        made = search.run.provenance
        shared = recorded.keys() & made.keys()
        same = "settings" in shared and all(recorded[key] == made[key] for key in shared)
        if same and search.run.targets == masks.targets:
            yield search

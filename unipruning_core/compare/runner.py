"""Runs of a comparison: a search per method and seed, a checkpoint and an evaluation per sparsity, if missing.

``FOLDER/searches/<slug>/run`` is a run folder, with its cost in ``search.json`` beside it; ``FOLDER/evaluations`` holds
one JSON file per measured checkpoint.  A slug ends in a hash of everything that decides the result, so that existing
results are recognised, and a changed option adds new ones beside them.  Every stage is a command in another process.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.compare.countdown import Countdown
from unipruning_core.compare.folder import CHECKPOINTS, EVALUATIONS, SEARCHES
from unipruning_core.compare.methods import Method
from unipruning_core.compare.plan import CompareChoice, ComparisonPlan
from unipruning_core.compare.records import added, cost_of, read_evaluation, read_search, write_record
from unipruning_core.errors import ConfigError
from unipruning_core.progress import Progress
from unipruning_core.projection.place import discard_checkpoint
from unipruning_core.projection.report import read_report
from unipruning_core.search.claim import discard_run, is_under_way
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.search.run_folder import read_description
from unipruning_core.sparsity.parse import Sparsity
from unipruning_core.tools.processes import Commands, Stage

if TYPE_CHECKING:
    from unipruning_core.data.text import TextChoice


@dataclass(frozen=True)
class SearchJob:
    """One method's search with one seed, or the run that replaces a search where weights change."""

    method: Method
    seed: int
    facts: dict[str, Any]

    @property
    def slug(self) -> str:
        return f"{_word(self.method.label)}-s{self.seed}-{_key(self.facts)}"


@dataclass(frozen=True)
class Cell:
    """One perplexity of the table: a search at a sparsity, or the dense model."""

    method: Method | None
    search: SearchJob | None
    budget_source: SearchJob | None  # the search that the budget comes from, if another
    sparsity: Sparsity | None
    facts: dict[str, Any]

    @property
    def slug(self) -> str:
        if self.method is None or self.search is None or self.sparsity is None:
            return f"dense-{_key(self.facts)}"
        return f"{_word(self.method.label)}-s{self.search.seed}-{self.sparsity.slug}-{_key(self.facts)}"


@dataclass(frozen=True)
class TableLine:
    """One row of the table before it is measured: a method at a sparsity, with one cell per seed."""

    method: Method | None
    nominal: Sparsity | None  # as the user wrote it, without a budget
    sparsity: Sparsity | None
    cells: Sequence[Cell]


def lines_of(choice: CompareChoice, plan: ComparisonPlan) -> list[TableLine]:
    """Return every row once: the dense one first, then sparsity by sparsity in the order of the methods."""
    measured = {"text": plan.eval_sha256, "windows": plan.windows, "seq_len": plan.eval_seq_len}
    dense = Cell(None, None, None, None, {**plan.common, "search": None, **measured})
    lines = {("", ""): TableLine(None, None, None, [dense])}
    for nominal in choice.sparsities:
        for method in choice.methods:
            if (sparsity := method.with_budget(nominal)) is None or (method.label, str(sparsity)) in lines:
                continue
            seeds = choice.seeds if method.scores.spec.uses_text else choice.seeds[:1]
            cells = [_cell(choice, plan, method, sparsity, seed, measured) for seed in seeds]
            lines[method.label, str(sparsity)] = TableLine(method, nominal, sparsity, cells)
    if len(lines) == 1:
        raise ConfigError("no method supports any of the sparsities given; add a sparsity, such as 2:4 for prox")
    return list(lines.values())


def _cell(
    choice: CompareChoice, plan: ComparisonPlan, method: Method, sparsity: Sparsity, seed: int, measured: dict[str, Any]
) -> Cell:
    search = _search(choice, plan, method.scores, seed)
    budget_search = _search(choice, plan, method.budget_source, seed) if method.budget_source else None
    facts = {**plan.common, "search": _key(search.facts), "sparsity": str(sparsity), **measured}
    if method.allocation:
        facts["allocation"] = {**method.allocation, "judge": _key(budget_search.facts) if budget_search else None}
    return Cell(method, search, budget_search, sparsity, facts)


def _search(choice: CompareChoice, plan: ComparisonPlan, method: Method, seed: int) -> SearchJob:
    data = {
        "text": plan.text_sha256,
        "samples": method.calibration("samples", choice.data.samples),
        "seq_len": method.calibration("seq_len", plan.seq_len),
        "packing": choice.data.packing,
    }
    settings = {**plan.settings[method.label], "seed": seed}
    return SearchJob(method, seed, {**plan.common, "settings": settings, "data": data})


class ComparisonRunner:
    """The folder of a comparison, and the commands that fill it."""

    def __init__(self, choice: CompareChoice, plan: ComparisonPlan, commands: Commands, progress: Progress) -> None:
        self.choice, self.plan, self.commands, self.progress = choice, plan, commands, progress
        self.searches, self.evaluations = choice.out / SEARCHES, choice.out / EVALUATIONS
        self.checkpoints = choice.out / CHECKPOINTS
        for folder in (self.searches, self.evaluations):
            folder.mkdir(exist_ok=True)
        trusting = ["--trust-remote-code"] if choice.model.trust_remote_code else []
        # of the model, whose newest revision may become another meanwhile
        pinned = ["--revision", plan.revision] if plan.revision else []
        tokenizer = choice.model.tokenizer
        self._measuring = [
            *("--dtype", choice.model.dtype),
            *(["--tokenizer", tokenizer] if tokenizer else []),
            *trusting,
        ]
        self._loading, self._reading = [*self._measuring, *pinned], [*trusting, *pinned]
        self._backend = ["--backend", plan.common["backend"]]

    def run_missing(self, lines: Sequence[TableLine]) -> None:
        """Run what is missing, search by search, after a look at what is there."""
        cells = [cell for line in lines for cell in line.cells]
        missing = [cell for cell in cells if not self._evaluation(cell).is_file()]
        for cell in cells:
            if cell not in missing:
                self.result(cell)
        # all sparsities of one search together, so that its run folder can be removed afterwards
        groups: dict[str, list[Cell]] = {}
        for cell in missing:
            groups.setdefault(cell.search.slug if cell.search else "", []).append(cell)
        needed = {search.slug: search for cell in missing for search in (cell.search, cell.budget_source) if search}
        countdown = Countdown(
            [f"search {search.method.label}" for search in needed.values() if not self._is_searched(search)],
            ["evaluation"] * len(missing),
            len(cells) - len(missing),
            self.progress,
        )
        for group in groups.values():
            searches = {search.slug: search for cell in group for search in (cell.search, cell.budget_source) if search}
            for search in searches.values():
                if not self._is_searched(search):
                    with countdown.step(f"search {search.method.label}", f"seed {search.seed}"):
                        self._make_search(search)
            for cell in group:
                with countdown.step("evaluation", cell.slug.rpartition("-")[0]):
                    self._evaluate(cell)
            for slug in searches if self.choice.keep == "results" else ():
                discard_run(self.searches / slug / "run")

    def result(self, cell: Cell) -> dict[str, Any]:
        """Return the measurements of a cell and of its search."""
        content = read_evaluation(self._evaluation(cell), cell.facts, pruned=cell.search is not None)
        if cell.search is not None and "search" not in content:
            content["search"] = self._record(cell.search)
            if cell.budget_source is not None:
                content["search"] = added(content["search"], self._record(cell.budget_source))
        return content

    def _record(self, search: SearchJob) -> dict[str, Any]:
        return read_search(self.searches / search.slug / "search.json", search.facts)

    def _evaluation(self, cell: Cell) -> Path:
        return self.evaluations / f"{cell.slug}.json"

    def _is_searched(self, search: SearchJob) -> bool:
        folder = self.searches / search.slug
        if search.method.spec.changes_weights:
            return True
        recorded = (folder / "search.json").is_file() and self._record(search)
        return bool(recorded) and (folder / "run" / RUN_FILE).is_file()

    def _make_search(self, search: SearchJob) -> None:
        folder = self.searches / search.slug
        run, stage = folder / "run", None
        begun_before = (run / RUN_FILE).is_file() or is_under_way(run)
        if not (run / RUN_FILE).is_file():
            folder.mkdir(exist_ok=True)
            arguments = self._search_arguments(search) + ["--skip-nonfinite"] * self.choice.skip_nonfinite
            words = ["search", self.choice.model.name, "--out", str(run), *arguments, *self._loading]
            stage = self._command(*words, shared=True)
        tokens = read_description(run)["data"]["tokens"]
        # the total time of a search that resumed after another process is unknown
        timed_whole = stage is not None and not begun_before
        write_record(
            folder / "search.json",
            {
                "facts": search.facts,
                "method": search.method.label,
                "seconds": stage.seconds if stage and timed_whole else None,
                "peak_mib": stage.peak_mib if stage else None,
                "tokens": tokens if search.method.spec.uses_text else 0,
            },
        )

    def _evaluate(self, cell: Cell) -> None:
        checkpoint = self.choice.model.name
        content: dict[str, Any] = {"facts": cell.facts}
        if cell.search is not None:
            folder = self.checkpoints / cell.slug
            checkpoint = str(folder)
            costs = self._prune(cell, cell.search, ["--out", checkpoint, "--overwrite"])
            report = read_report(folder)
            content |= {**costs, "pruned": report["overall"]}
            if "search" in costs:
                content["search"]["tokens"] = report["provenance"]["data"]["tokens"]
        loading = self._loading if cell.search is None else self._measuring
        arguments = ["--seq-len", str(self.plan.eval_seq_len), "--windows", str(self.plan.windows), "--json"]
        text = text_words(self.choice.eval_text)
        stage = self._command("perplexity", checkpoint, *text, *arguments, *loading, shared=True)
        measured = json.loads(stage.output)
        # before there is an evaluation, after which nobody would look for it again
        if cell.search is not None and self.choice.keep != "checkpoints":
            discard_checkpoint(Path(checkpoint))
        write_record(self._evaluation(cell), {**content, "evaluate": cost_of(stage), "measured": measured})
        perplexity = math.inf if measured["perplexity"] is None else measured["perplexity"]
        self.progress.note(f"{cell.slug.rpartition('-')[0]}: perplexity {perplexity:.2f}")

    def _prune(self, cell: Cell, search: SearchJob, arguments: list[str]) -> dict[str, Any]:
        """Write one checkpoint; return its cost."""
        sparsity_arguments, model = ["--sparsity", str(cell.sparsity)], self.choice.model.name
        if search.method.spec.changes_weights:
            arguments += [*sparsity_arguments, *self._search_arguments(search)]
            return {"search": cost_of(self._command("compare-sparsegpt", model, *arguments, *self._loading))}
        run = self.searches / search.slug / "run"
        cost = {"seconds": 0.0, "peak_mib": 0.0}
        if cell.method is not None and cell.method.allocation:
            budget = self.searches / search.slug / f"{cell.slug}.json"
            budget_run = self.searches / (cell.budget_source or search).slug / "run"
            allocation = [f"--{key.replace('_', '-')}={value}" for key, value in cell.method.allocation.items()]
            allocation += [*sparsity_arguments, "--out", str(budget), "--overwrite"]
            cost = cost_of(self._command("allocate", model, str(budget_run), *allocation, *self._reading))
            sparsity_arguments = ["--sparsity", f"@{budget}"]
        stage = self._command("project", model, str(run), *sparsity_arguments, *arguments, *self._reading, shared=True)
        return {"project": added(cost, cost_of(stage))}

    def _search_arguments(self, search: SearchJob) -> list[str]:
        data, settings = search.facts["data"], search.method.settings | {"seed": str(search.seed)}
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        arguments += [f"--{key.replace('_', '-')}={data[key]}" for key in ("samples", "seq_len", "packing")]
        patterns = self.choice.model.targets.to_json().items()
        arguments += [f"--{name}={pattern}" for name, given in patterns for pattern in given]
        return arguments + text_words(self.choice.data.text)

    def _command(self, *arguments: str, shared: bool = False) -> Stage:
        """Run one command; where it can be shared, in as many processes as were asked for."""
        ranks = self.choice.ranks if shared else 1
        return self.commands.run([*arguments, *self._backend], ranks=ranks)


def text_words(text: TextChoice) -> list[str]:
    """Return a text as command-line options."""
    options = {"--split": text.split, "--text-column": text.column}
    weights = text.source if isinstance(text.source, Mapping) else {}
    sources = [f"{weight!r}:{source}" for source, weight in weights.items()] or [str(text.source)]
    return [
        *(word for source in sources for word in ("--data", source)),
        *(word for key, value in options.items() if value for word in (key, value)),
    ]


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _word(label: str) -> str:
    return re.sub(r"[^\w.=]+", "_", label)

"""Compare pruning methods on one model: the same text, seeds and windows for all, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from unipruning_core.compare.plan import CompareChoice, Plan, make_plan
from unipruning_core.compare.runner import Workshop, lines_of, locked
from unipruning_core.compare.table import rows_of, to_text, write_csv, write_results
from unipruning_core.errors import ConfigError
from unipruning_core.progress import Progress
from unipruning_core.tools.bench.plot import check_drawer
from unipruning_core.tools.processes import apart

CSV_FILE, JSON_FILE, PLOT_FILE = "results.csv", "results.json", "perplexity.png"


def run_compare(choice: CompareChoice, remarks: Mapping[str, str], *, plot: bool, progress: Progress) -> str:
    """Measure what is missing in the output folder, write the table there, and return it as text.

    Raises:
        UnipruningError: whatever was wrong, before anything expensive; or a stage failed, with its own sentence above.
    """
    if plot:
        check_drawer()
    if not choice.seeds or len(set(choice.seeds)) < len(choice.seeds):
        raise ConfigError(f"seeds are whole numbers, each once, not {list(choice.seeds)}")
    with locked(choice.out) as lock:
        progress.note("checking model, texts and methods")
        plan = apart(partial(make_plan, choice))
        lines = lines_of(choice, plan)
        workshop = Workshop(choice, plan, lock, progress)
        workshop.fill(lines)
        rows = rows_of(lines, [[workshop.result(cell) for cell in line.cells] for line in lines])
        write_csv(choice.out / CSV_FILE, rows)
        write_results(choice.out / JSON_FILE, rows, _about(choice, plan))
        if plot:
            from unipruning_core.compare.plot import plot as draw

            draw(rows, choice.out / PLOT_FILE, f"{choice.model}: {choice.eval_text.source}")
    return "\n".join([to_text(rows, remarks), *_said(choice, plan)])


def _about(choice: CompareChoice, plan: Plan) -> dict[str, Any]:
    return {
        "model": choice.model,
        "seeds": list(choice.seeds),
        "samples": choice.samples,
        "packing": choice.packing,
        "text": choice.text.source,
        "eval_text": choice.eval_text.source,
        **asdict(plan),
    }


def _said(choice: CompareChoice, plan: Plan) -> list[str]:
    seeds = "the median over seeds " + ", ".join(map(str, choice.seeds)) if len(choice.seeds) > 1 else "one seed"
    return [
        f"Perplexity: {seeds}; {plan.windows} windows of {plan.eval_seq_len} tokens of {choice.eval_text.source}.",
        "Intervals: 95 % of bootstrap samples of the windows; ratio: to the first row of each sparsity, same windows.",
        "Seconds and memory: of whole commands; a search is made once for all its sparsities.",
        f"Files: {CSV_FILE}, {JSON_FILE} in {choice.out}.",
    ]

"""Comparison of pruning methods on one model, with the same text, seeds and windows for all, in one table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.compare.folder import held
from unipruning_core.compare.methods import KEEPS, parse_methods, parse_ratios
from unipruning_core.compare.plan import CompareChoice, ComparisonPlan, make_plan
from unipruning_core.compare.runner import ComparisonRunner, lines_of
from unipruning_core.compare.table import Row, rows_of, to_text, write_csv, write_results
from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.frames import Tabular
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.loading import ModelChoice
from unipruning_core.progress import Progress, as_progress
from unipruning_core.search.samples import check_skipping_over_ranks
from unipruning_core.search.settings import check_seeds
from unipruning_core.stopping import explained
from unipruning_core.tools.bench.plot import check_drawer
from unipruning_core.tools.processes import Commands

if TYPE_CHECKING:
    from unipruning_core.data.calibration import Packing

CSV_FILE, JSON_FILE, PLOT_FILE = "results.csv", "results.json", "perplexity.png"


@dataclass(frozen=True)
class Comparison(Tabular):
    """A finished comparison; as a string it is the table."""

    rows: tuple[Row, ...]  #: the dense model first
    remarks: Mapping[str, str]  #: on methods, by the text that names them
    footnotes: tuple[str, ...]

    def records(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        return "\n".join([to_text(self.rows, self.remarks), *self.footnotes])


def compare(
    model: str | os.PathLike[str],
    *,
    methods: str | Sequence[str] = (),
    presets: str | Sequence[str] = (),
    sparsity: str | Sequence[str],
    out: str | os.PathLike[str],
    seeds: Sequence[int] = (0,),
    data: str | os.PathLike[str] | Mapping[str, float] = "c4",
    split: str | None = None,
    text_column: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    samples: int = 128,
    seq_len: int | None = None,
    packing: Packing = "packed",
    eval_data: str | os.PathLike[str] = "wikitext2",
    eval_split: str | None = None,
    eval_text_column: str | None = None,
    windows: int | None = None,
    eval_seq_len: int | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    keep: str = "runs",
    ranks: int = 1,
    skip_nonfinite: bool = False,
    plot: bool = False,
    progress: bool | Progress = True,
) -> Comparison:
    """Compare pruning methods on the same text, seeds and windows, in one resumable table.

    Args:
        model: a folder with safetensors weights or a hub id.
        methods: "NAME[/BUDGET][:KEY=VALUE]...", such as "wanda", "drift/row" or "feedback:ramp_sparsity=0.6".
        presets: named lists of methods: "peers", "ablation", "sensitivity".
        sparsity: "60%", "2:4" and so on, without a scope, which belongs to the method.
        out: the folder that keeps searches and evaluations; a second call runs only what is missing.
        seeds: seeds of the order of the text and of random subsets; the table shows the median over them.
        eval_data: the text to measure perplexity on, with its own split, text column and window length.
        keep: "results", "runs" or "checkpoints", each including those before it.
        ranks: processes of this machine that share each search, projection and evaluation; SparseGPT takes one.
        skip_nonfinite: as for ``search``; SparseGPT does not know it.
        plot: also draw ``out``/perplexity.png.

    All others are as in ``prune``.

    Raises:
        UnipruningError: anything wrong, found before anything expensive; or a stage failed, with its message above.
    """
    named = {"model": model, "data": data, "eval_data": eval_data}
    for name, value in (named | {"tokenizer": tokenizer} if tokenizer is not None else named).items():
        if not isinstance(value, str | os.PathLike) and not (name == "data" and isinstance(value, Mapping)):
            raise ConfigError(f"{name} of a comparison must be a name or a path, not a {type(value).__name__}")
    if keep not in KEEPS:
        raise ConfigError(f"keep must be one of {', '.join(KEEPS)}, not {keep!r}")
    parsed, remarks = parse_methods(_as_list(methods), _as_list(presets))
    choice = CompareChoice(
        model=ModelChoice(
            os.fspath(model),
            dtype,
            trust_remote_code,
            None if tokenizer is None else os.fspath(tokenizer),
            TargetChoice.of(include, exclude),
            revision,
        ),
        backend=backend,
        methods=parsed,
        sparsities=parse_ratios(_as_list(sparsity)),
        seeds=seeds,
        data=DataChoice(
            TextChoice(data if isinstance(data, Mapping) else os.fspath(data), split, text_column),
            samples,
            seq_len,
            packing,
        ),
        eval_text=TextChoice(os.fspath(eval_data), eval_split, eval_text_column),
        windows=windows,
        eval_seq_len=eval_seq_len,
        out=Path(out),
        keep=keep,
        ranks=ranks,
        skip_nonfinite=skip_nonfinite,
    )
    if type(ranks) is not int or ranks < 1:
        raise ConfigError(f"--ranks must be a whole number from 1, not {ranks!r}")
    if ranks > 1:
        check_skipping_over_ranks(skip_nonfinite=skip_nonfinite)
    if plot:
        check_drawer()
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be whole numbers, each given once, not {list(seeds)}")
    check_seeds(seeds)
    shown = as_progress(progress)
    apart = [*choice.data.text.files(), *choice.eval_text.files(), *choice.model.folders()]
    with held(choice.out, apart) as lock, Commands(shown, (lock,)) as commands:
        shown.note("checking model, texts and methods")
        plan = commands.call(partial(make_plan, choice))
        lines = lines_of(choice, plan)
        runner = ComparisonRunner(choice, plan, commands, shown)
        with explained(lambda: "; finished searches and evaluations are kept, and the same command goes on from them"):
            runner.run_missing(lines)
        rows = rows_of(lines, [[runner.result(cell) for cell in line.cells] for line in lines])
        write_csv(choice.out / CSV_FILE, rows)
        write_results(choice.out / JSON_FILE, rows, _about(choice, plan))
        if plot:
            from unipruning_core.compare.plot import plot as draw

            draw(rows, choice.out / PLOT_FILE, f"{choice.model.name}: {choice.eval_text.source}")
    return Comparison(tuple(rows), remarks, tuple(_footnotes(choice, plan)))


def _as_list(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


def _about(choice: CompareChoice, plan: ComparisonPlan) -> dict[str, Any]:
    return {
        "model": choice.model.name,
        "seeds": list(choice.seeds),
        "samples": choice.data.samples,
        "packing": choice.data.packing,
        "text": choice.data.text.source,
        "eval_text": choice.eval_text.source,
        **asdict(plan),
    }


def _footnotes(choice: CompareChoice, plan: ComparisonPlan) -> list[str]:
    seeds = "the median over seeds " + ", ".join(map(str, choice.seeds)) if len(choice.seeds) > 1 else "one seed"
    weights = plan.weights
    return [
        f"Targets: {weights['targets'] / 1e6:.1f} M of {weights['model'] / 1e6:.1f} M weights, "
        f"{weights['targets'] / weights['outside_embeddings']:.1%} of those outside embeddings.",
        f"Perplexity: {seeds}; {plan.windows} windows of {plan.eval_seq_len} tokens of {choice.eval_text.source}.",
        "Intervals: 95 % bootstrap over windows; ratio: to the first row of each sparsity on the same windows.",
        "Seconds and memory: of each command, in a process that has imported what it needs; one search serves all its "
        "sparsities.",
        f"Files: {CSV_FILE} and {JSON_FILE} in {choice.out}.",
    ]

"""Evaluation of several checkpoints on the same tasks and texts; what is measured is kept, and not measured again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.data.perplexity import Windows, measured
from unipruning_core.data.text import TextChoice
from unipruning_core.errors import ConfigError
from unipruning_core.evaluation.harness import Harness, TaskOptions, check_installed, plain_results
from unipruning_core.evaluation.measures import PERPLEXITY, measures_of, perplexity_measure
from unipruning_core.evaluation.records import Cell, as_file_name, folder_name, tidy
from unipruning_core.evaluation.table import Row, rows_of, to_text, write_csv, write_results
from unipruning_core.frames import Tabular
from unipruning_core.jobs.arguments import open_on_disk
from unipruning_core.models.decoder import text_model
from unipruning_core.models.hub import local_folder
from unipruning_core.models.memory import LARGER_DEVICE, memory_errors_as_config_errors
from unipruning_core.progress import Progress, as_progress
from unipruning_core.stopping import explained
from unipruning_core.storage.files import sha256
from unipruning_core.storage.holding import holding
from unipruning_core.storage.outputs import errors_as_output_errors

if TYPE_CHECKING:
    from unipruning_core.jobs.opened import OnDisk

CSV_FILE, JSON_FILE = "results.csv", "results.json"
KEPT = "; what was measured is kept, and the same command goes on from there"
SHAPING = (".json", ".jinja", ".model", ".py", ".txt")  # files beside the weights that figures depend on
SMALLER_BATCH = f"{LARGER_DEVICE}, or a smaller --batch-size"


@dataclass(frozen=True)
class Evaluation(Tabular):
    """What was measured; as a string it is the table."""

    rows: tuple[Row, ...]  # the first model's before the others', figure by figure
    out: Path

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        return (
            f"{to_text(self.rows)}\n\nDifferences: to the first model, their standard errors over the same items, "
            f"paired.\nFiles: {CSV_FILE}, {JSON_FILE} and lm-eval's own in {self.out}."
        )


@dataclass(frozen=True)
class _Job:
    """One checkpoint, and what is to be measured of it."""

    disk: OnDisk
    fingerprint: str
    tasks: list[tuple[str, Cell]]
    texts: list[tuple[Windows, Cell]]

    def cells(self) -> list[Cell]:
        return [cell for _, cell in (*self.tasks, *self.texts)]

    def is_whole(self) -> bool:
        return all(cell.read() is not None for cell in self.cells())


def evaluate(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    tasks: str | Sequence[str] = (),
    include_path: str | os.PathLike[str] | None = None,
    data: str | Sequence[str] = (),
    out: str | os.PathLike[str],
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    batch_size: int = 8,
    seq_len: int | None = None,
    windows: int | None = None,
    split: str | None = None,
    text_column: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool | Progress = True,
) -> Evaluation:
    """Measure checkpoints on tasks of lm-eval and on texts; all differences are to the first.

    Args:
        models: folders with safetensors weights or hub ids, the dense one first.
        tasks: names of tasks or groups of lm-eval, such as "arc_easy", or of those in ``include_path``.
        include_path: a folder of task files (YAML), which come before lm-eval's of the same name.
        data: texts to measure the perplexity on, as in ``perplexity``, with ``seq_len``, ``windows`` and so on.
        out: the folder that keeps figures and lm-eval's files; a second call measures only what is missing.
        limit: items of each task, from its start (default: all).
        num_fewshot: examples before each question (default: each task's own number).
        apply_chat_template: put the questions as a chat.
        batch_size: items at a time.

    All others are as in ``perplexity``.

    Raises:
        UnipruningError: anything wrong, found before a model is loaded if possible.
    """
    options = TaskOptions(limit, num_fewshot, apply_chat_template, batch_size)
    names = _as_list(models)
    wanted, sources = (list(dict.fromkeys(_as_list(given))) for given in (tasks, data))
    _check(names, wanted, sources, options)
    if wanted:
        check_installed()
    shown = as_progress(progress)
    disks = [
        open_on_disk(
            name,
            tokenizer,
            backend,
            shown,
            dtype,
            trust_remote_code,
            revision if local_folder(os.fspath(name)) is None else None,
        )
        for name in names
    ]
    texts = [TextChoice(source, split, text_column) for source in sources]
    folder = Path(out)
    apart = [named for disk in disks for named in disk.choice.folders()]
    apart += [named for text in texts for named in text.files()]
    with holding(folder, "evaluation", "an evaluation", apart=apart), explained(lambda: KEPT):
        tidy(folder)
        harness = None if not wanted else _read_tasks(wanted, include_path, disks[0])
        jobs = [_job(disk, harness, texts, options, folder, (seq_len, windows)) for disk in disks]
        for job in jobs:
            if not job.is_whole():
                _measure(job, harness, options, shown)
        rows = rows_of({job.disk.name: [one for cell in job.cells() for one in cell.read() or ()] for job in jobs})
        with errors_as_output_errors(folder):
            write_csv(folder / CSV_FILE, rows)
            write_results(folder / JSON_FILE, rows, {job.disk.name: job.fingerprint for job in jobs})
    return Evaluation(tuple(rows), folder)


def _read_tasks(names: Sequence[str], include_path: str | os.PathLike[str] | None, disk: OnDisk) -> Harness:
    _ = disk.checkpoint  # a model that is none is refused before the seconds that this takes
    disk.progress.note(f"reading {len(names)} tasks of lm-eval {version('lm_eval')}")
    return Harness(names, None if include_path is None else Path(include_path), disk.progress)


def _job(
    disk: OnDisk,
    harness: Harness | None,
    texts: Sequence[TextChoice],
    options: TaskOptions,
    folder: Path,
    shape: tuple[int | None, int | None],
) -> _Job:
    """Read all that does not need the model loaded: headers, tokenizer and texts."""
    fingerprint = disk.checkpoint.fingerprint()
    place = folder / folder_name(disk.name, fingerprint)
    files = _digest_of_files(
        [disk.checkpoint.folder, *(path for what, path in disk.choice.folders() if what != "model")]
    )
    facts = {"dtype": str(disk.dtype), "tokenizer": disk.named_tokenizer, "files": files}
    of_tasks, of_texts = [], []
    for name, digest in () if harness is None else harness.digests.items():
        how = {key: value for key, value in asdict(options).items() if key != "batch_size"}  # of speed alone
        given = {**facts, **how, "task": name, "config": digest, "lm_eval": version("lm_eval")}
        of_tasks.append((name, Cell.of(place, name, given)))
    for text in texts:
        made = disk.windows(text, *shape)
        given = {**facts, "text": made.data_sha256, "source": made.source, "windows": list(made.ids.shape)}
        of_texts.append((made, Cell.of(place, PERPLEXITY, given)))
    return _Job(disk, fingerprint, of_tasks, of_texts)


def _digest_of_files(folders: Iterable[Path]) -> str:
    """Return a sha256 of config, tokenizer and code in these folders, which the fingerprint of weights leaves out."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix in SHAPING and path.is_file():
                digest.update(f"{path.name}:{sha256(path)}\n".encode())
    return digest.hexdigest()


def _measure(job: _Job, harness: Harness | None, options: TaskOptions, progress: Progress) -> None:
    """Load a checkpoint once, for all that is missing of it."""
    disk = job.disk
    to_do = [(name, cell) for name, cell in job.tasks if cell.read() is None]
    if to_do and disk.tokenizer.bos_token is None and disk.tokenizer.eos_token is None:
        raise ConfigError(
            f"lm-eval needs a token for the beginning or the end of a text, and {disk.name!r} has none; name a "
            "tokenizer that has one with --tokenizer"
        )
    progress.note(f"measuring {disk.name!r}")
    with memory_errors_as_config_errors(disk.backend, SMALLER_BATCH):
        model = disk.load()
        for made, cell in job.texts:
            if cell.read() is None:
                losses = measured(model, made, progress).per_window_nll
                cell.write([perplexity_measure(made.source, losses, made.data_sha256)], {})
        for name, cell in to_do:
            if harness is not None:
                found = harness.run(name, text_model(model), disk.tokenizer, options)
                results, samples = plain_results(found)
                files = {f"samples_{as_file_name(task)}.jsonl": text for task, text in samples.items()}
                cell.write(measures_of(found), {"results.json": results, **files})


def _check(names: Sequence[Any], tasks: Sequence[str], texts: Sequence[str], options: TaskOptions) -> None:
    if not names:
        raise ConfigError("an evaluation needs a model; pass one or more, the dense one first")
    if len({os.fspath(name) for name in names}) < len(names):
        raise ConfigError(f"each model is evaluated once, not {[os.fspath(name) for name in names]}")
    if not tasks and not texts:
        raise ConfigError("there is nothing to measure; pass --tasks arc_easy,hellaswag or so, --data TEXT, or both")
    for flag, value, least in (
        ("--limit", options.limit, 1),
        ("--num-fewshot", options.num_fewshot, 0),
        ("--batch-size", options.batch_size, 1),
    ):
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"{flag} must be a whole number from {least}, not {value!r}")


def _as_list(given: Any) -> list[Any]:
    return [given] if isinstance(given, str | os.PathLike) else list(given)

"""The one place that knows lm-eval: which tasks it has, and what a model makes of one."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from unipruning_core.data.hub import quiet_libraries
from unipruning_core.errors import ConfigError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.progress import Progress
from unipruning_core.spelling import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MISSING = "the tasks are those of lm-eval, which is not installed; pip install 'lm-eval>=0.4.13', or leave out --tasks"
REMEDY = "check the task and its data, offline too with 'lm_eval --tasks NAME --limit 2'"
RESAMPLES = 1000  # for errors of figures that are no means; lm-eval's own 100 000 take minutes, and change 2 % of one


@dataclass(frozen=True)
class TaskOptions:
    """How a task is put to a model."""

    limit: int | None = None  # items of each task, from its start
    num_fewshot: int | None = None  # examples before each question; the task's own number if None
    chat_template: bool = False
    batch_size: int = 8


def check_installed() -> None:
    """Refuse where lm-eval is missing, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(MISSING)


class Harness:
    """Tasks of a local folder, and of lm-eval where one is not there: its thousands of files take seconds to read.

    Raises:
        ConfigError: a name is no task, or its data cannot be loaded.
    """

    def __init__(self, names: Sequence[str], folder: Path | None, progress: Progress) -> None:
        self._progress = progress
        self._manager = _manager(names, folder)
        self._check_names(names, folder)
        # sha256 of the configuration and the items of each task, and of all tasks in it if it is a group
        self.digests = {name: self._digest(name) for name in names}

    def run(self, name: str, model: PreTrainedModel, tokenizer: Any, options: TaskOptions) -> dict[str, Any]:
        """Return what lm-eval's ``simple_evaluate`` returns: results, configurations, and samples with every item."""
        from lm_eval import simple_evaluate

        with _quiet(), library_errors_as(ConfigError, f"lm-eval cannot put task {name!r} to the model", REMEDY):
            found: dict[str, Any] = simple_evaluate(
                _shown_model(model, tokenizer, options.batch_size, self._progress, name),
                tasks=[name],
                limit=options.limit,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.chat_template,
                task_manager=self._manager,
                bootstrap_iters=RESAMPLES,
            )
        return found

    def _check_names(self, names: Sequence[str], folder: Path | None) -> None:
        unknown = [name for name in names if name not in self._manager.all_tasks]
        if unknown:
            hint = did_you_mean(unknown[0], self._manager.all_tasks) or "; lm_eval ls tasks lists them"
            where = "" if folder is None else f" or {str(folder)!r}"
            raise ConfigError(f"no task of lm-eval{where} is called {unknown[0]!r}{hint}")

    def _digest(self, name: str) -> str:
        """Load a task, which finds or downloads its data."""
        from lm_eval.utils import handle_non_serializable

        with _quiet(), library_errors_as(ConfigError, f"task {name!r} cannot be loaded", REMEDY):
            tasks: Mapping[str, Any] = self._manager.load([name])["tasks"]
            digest = hashlib.sha256()
            for key in sorted(tasks):
                # the items too: a local file may have others by the next evaluation
                for part in (key, tasks[key].dump_config(), *tasks[key].eval_docs):
                    digest.update(json.dumps(part, default=handle_non_serializable).encode())
        return digest.hexdigest()


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    with _quiet(), library_errors_as(ConfigError, "the tasks cannot be read", REMEDY):
        if folder is not None:
            local = TaskManager(include_path=str(folder), include_defaults=False)
            if set(names) <= set(local.all_tasks):
                return local
        return TaskManager(include_path=None if folder is None else str(folder))


def plain_results(found: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return lm-eval's result as the JSON that its own command writes, and the samples of each task as JSON lines."""
    from lm_eval.utils import handle_non_serializable

    def text(content: Any, indent: int | None = None) -> str:
        return json.dumps(content, indent=indent, ensure_ascii=False, default=handle_non_serializable)

    samples = {task: "".join(f"{text(item)}\n" for item in items) for task, items in found["samples"].items()}
    rest = {key: value for key, value in found.items() if key != "samples"}
    return f"{text(rest, 2)}\n", samples


def _shown_model(model: PreTrainedModel, tokenizer: Any, batch_size: int, progress: Progress, label: str) -> Any:
    """Return a model for lm-eval that tells of its requests in our progress instead of lm-eval's bars."""
    from lm_eval.models.huggingface import HFLM

    class Shown(HFLM):  # type: ignore[misc]  # lm-eval has no types
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            with self._counted(requests):
                return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            with self._counted(requests):
                return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            with self._counted(requests):
                return super().generate_until(requests, disable_tqdm=True)

        @contextmanager
        def _counted(self, requests: Sequence[Any]) -> Iterator[None]:
            before = self.cache_hook
            with progress.task(label, len(requests), "requests") as task:
                self.set_cache_hook(_Counter(task))
                try:
                    yield
                finally:
                    self.set_cache_hook(before)

    return Shown(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)


class _Counter:
    """What lm-eval tells of every answer, to keep it if asked to."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._task.advance()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of lm-eval and git, and the bars of preparations and of data sets, from the terminal."""
    import lm_eval.api.metrics as metrics
    import lm_eval.api.task as task
    import lm_eval.evaluator as evaluator
    from tqdm import tqdm

    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            quiet_libraries(),
            _replaced(task, "tqdm", lambda items, *_, **__: tqdm(items, disable=True)),
            # in this process, which holds a model, and without words on standard output
            _replaced(metrics, "bootstrap_stderr", _resampled_stderr),
            # of the folder that the command is in, which is not lm-eval's
            _replaced(evaluator, "get_git_commit_hash", lambda: None),
        ):
            yield
    finally:
        log.setLevel(level)


def _resampled_stderr(figure: Callable[[Sequence[Any]], float], items: Sequence[Any], iters: int) -> float:
    """Return the standard deviation of a figure over items drawn again with replacement."""
    drawn = random.Random(0)
    return stdev(figure(drawn.choices(items, k=len(items))) for _ in range(iters))


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)

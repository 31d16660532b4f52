"""One search from model and text to a run folder: the loop, its progress, and its resumption."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.distributed.world import ALONE, World
from unipruning_core.errors import OutputError, RunError, reason_and_remedy
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.divided import check_divisible, divided, runs
from unipruning_core.models.experts import apart
from unipruning_core.models.home import DiskHome, Home, HostHome
from unipruning_core.models.names import Names
from unipruning_core.models.size import ModelSize
from unipruning_core.models.targets import check_values, find_targets
from unipruning_core.progress import Progress, Task
from unipruning_core.search.activation_memory import decide_recomputation
from unipruning_core.search.base import Outcome
from unipruning_core.search.claim import ClaimedRun, claimed_run
from unipruning_core.search.compilation import compiled_blocks
from unipruning_core.search.finished import COMPILED, NOT_COMPILED, RUN_FILE
from unipruning_core.search.intervals import SAVE_EVERY
from unipruning_core.search.nonfinite import FLAG, SKIPPED, checked
from unipruning_core.search.resume import OFFLOADED, Resume
from unipruning_core.search.run_document import REVISION, SIZE, TARGETS, TRACE
from unipruning_core.search.run_folder import Run, write_run
from unipruning_core.search.samples import goes_on, run_samples
from unipruning_core.stopping import Stopped, Stopping, explained
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.staging import UNFINISHED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.data.calibration import Calibration
    from unipruning_core.models.layer import Layer
    from unipruning_core.search.settings import Settings


@dataclass(frozen=True)
class SearchTask:
    """The inputs of one search.  ``data`` describes the calibration for the record: source, samples and so on."""

    checkpoint: Checkpoint
    calibration: Calibration
    settings: Settings
    model_name: str
    data: dict[str, Any]
    skip_nonfinite: bool = False  # whether samples that are not finite are left out; else they end the search
    digests: Mapping[str, str] = field(default_factory=dict)  # sha256 of each target's weight as stored, if known
    targets: TargetChoice = BY_ROLE
    compiles: bool = False  # whether the decoder blocks run compiled, which rounds in another way

    def description(self, backend: Backend) -> dict[str, Any]:
        """Return what the run folder records of the search."""
        return {
            "settings": self.settings.to_json(),
            "scope": self.settings.scope,
            TARGETS: self.targets.to_json(),
            "model": {
                "name": self.model_name,
                "fingerprint": self.checkpoint.fingerprint(),
                **({REVISION: revision} if (revision := self.checkpoint.revision) else {}),
            },
            "data": {**self.data, "tokens": self.calibration.tokens, "fingerprint": self.calibration.fingerprint},
            "backend": backend.name,
            **({COMPILED: True} if self.compiles else {}),
            "versions": versions(),
        }

    def identity(self, backend: Backend) -> dict[str, Any]:
        """Return what a resumed search must match: the description, and the weights to the last bit."""
        weights = hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()
        return {**self.description(backend), "weights": weights}


def versions() -> dict[str, str]:
    """Return the versions of the software that a result depends on."""
    packages = {package: version(package) for package in ("unipruning", "torch", "transformers")}
    return {"python": platform.python_version(), **packages}


def finished_search(task: SearchTask, backend: Backend, folder: Path) -> Run | None:
    """Return the finished search that ``folder`` holds, or None if it holds none.

    Raises:
        RunError: it holds a different search.
    """
    if not (folder / RUN_FILE).is_file():
        return None
    run = Run.open(folder)
    description = {COMPILED: False, **task.description(backend)}
    # runs of before it was recorded have none
    if REVISION not in run.description["model"]:
        description["model"].pop(REVISION, None)
    held = {COMPILED: NOT_COMPILED in run.description, **run.description}
    for key, expected in description.items():
        if (recorded := held[key]) != expected:
            raise RunError(
                f"{str(folder)!r} holds a finished search that differs in its {key} ({recorded!r}, not {expected!r}); "
                "choose another folder, or discard it with --overwrite"
            )
    if run.description.get(SKIPPED) and not task.skip_nonfinite:
        raise RunError(
            f"{str(folder)!r} holds a finished search that left out samples; repeat the command with {FLAG}, choose "
            "another folder, or discard it with --overwrite"
        )
    return run


def search(
    task: SearchTask,
    model: PreTrainedModel,
    backend: Backend,
    folder: Path,
    *,
    overwrite: bool = False,
    claimed: ClaimedRun | None = None,  # the folder, where the caller, on the first rank, holds it already
    world: World = ALONE,  # the ranks, each with a model without values where it is to be divided among them
    offload: str = "none",  # where what is held of a divided model lies: "cpu", "disk", or on the device
    save_every: float | str = SAVE_EVERY,
    checkpoint_activations: str = "auto",
    room: int | None = None,  # bytes free for activations; None if unknown
    progress: Progress | None = None,
) -> Run:
    """Run mirror descent over the calibration batches and write the run folder.

    A search that was killed resumes from its last saved state, and ends with the same bytes, whether or not the
    backward pass computes activations again.  With ``overwrite`` a state of another search, or a damaged one, is
    discarded; an earlier result is replaced when this one is whole.

    A signal that asks it to stop ends it after the current sample, once the state is saved.

    Raises:
        OutputError: the folder cannot be used.  RunError: its unfinished search is a different one.
        CheckpointError: there is no target, or the checkpoint lacks one.
        DataError: a target has no Gamma, or a number is not finite.
        Stopped: a signal arrived.
    """
    progress = progress or Progress()
    held = claimed or world.size > 1
    with nullcontext(claimed) if held else claimed_run(folder, overwrite=overwrite) as claim, ExitStack() as stack:
        layers, left_out = find_targets(model, task.checkpoint, task.targets)
        size = ModelSize.of(model, layers)
        home = None
        if world.sharded:
            home = _home(offload, folder, world)
            stack.callback(home.clear)
            layers = _over_ranks(task, model, layers, world, home, progress, stack)
        else:
            check_values(layers, task.checkpoint, progress)
            stack.enter_context(apart(layers))
        batches = task.calibration.batches
        run = task.settings.start(model, layers, backend, len(batches), world, home)
        if not world.sharded:
            run.recomputes = decide_recomputation(checkpoint_activations, run, task.calibration, room, progress)
        else:
            # where weights and state do not fit, activations are the most of what is left
            needed = checkpoint_activations == "on" or (checkpoint_activations == "auto" and offload != "none")
            run.recomputes = needed and task.settings.follows_loss
        why_not = stack.enter_context(compiled_blocks(run, batches, progress)) if task.compiles else None
        task = replace(task, compiles=task.compiles and why_not is None)
        if not world.sharded:
            run.own_model()  # after the passes that are made with its own weights
        resume = Resume(folder / UNFINISHED, task.identity(backend), world)
        if overwrite:
            resume.discard_others(len(batches), progress)
        with explained(lambda: goes_on(resume)), Stopping() as stopping:
            processed = run_samples(
                run,
                batches,
                progress,
                resume,
                save_every,
                origins=task.calibration.origins,
                skip_nonfinite=task.skip_nonfinite,
                stopping=stopping,
            )
            content = {**task.description(backend), "losses": processed.losses}
            content |= {TRACE: processed.thresholds} if processed.thresholds else {}
            content |= {SIZE: size.to_json()}
            content |= {NOT_COMPILED: why_not} if why_not else {}
            content |= {SKIPPED: processed.skipped} if processed.skipped else {}
            reach = run.reach()
            for note in reach.note():
                progress.note(note)
            dense = {layers[position].name: why for position, why in reach.dense.items()}
            content |= {"left_out": {part.name: part.why for part in left_out} | dense}
            if reach.siblings:
                content |= {"by_siblings": [layers[position].name for position in reach.siblings]}
            targets = [layers[position].target for position in reach.kept]
            with progress.task("writing", len(targets), "matrices") as bar, _unwritten_explained(folder, resume):
                if claim is not None:
                    outcomes = checked(run.outcomes(), processed.kept)
                    write_run(claim.start(), targets, _counted(outcomes, bar), content, task.digests)
                    claim.publish()
                else:
                    for _ in run.outcomes():  # made together with the first rank, which writes them
                        pass
            world.from_lead(None)  # all wait for the result to be there
    if stopping.number is not None:
        raise Stopped(stopping.number, f"; the search was finished first, and is in {str(folder)!r}")
    return Run.open(folder)


def _home(offload: str, folder: Path, world: World) -> Home:
    """Return where what is held lies; files of a search go beside its saved states."""
    if offload == "disk":
        return DiskHome(world.device, folder / UNFINISHED / f"{OFFLOADED}-{world.rank:05d}")
    return HostHome(world.device) if offload == "cpu" else Home(world.device)


def _over_ranks(
    task: SearchTask,
    model: PreTrainedModel,
    layers: list[Layer],
    world: World,
    home: Home,
    progress: Progress,
    stack: ExitStack,
) -> list[Layer]:
    """Load the model over the ranks, and return the layers with what this one holds of them."""
    for pattern in task.settings.patterns():
        check_divisible(layers, pattern.m, world.shards)
    names = Names.of(model, task.checkpoint)
    part = runs(model, [layer.name_in_model for layer in layers], loss=task.settings.follows_loss)
    stack.enter_context(apart(layers))
    return divided(model, part, layers, task.checkpoint, names, world, home, progress)


@contextmanager
def _unwritten_explained(folder: Path, resume: Resume) -> Iterator[None]:
    """Say what remains of a search whose result cannot be written."""
    try:
        yield
    except OSError as error:
        reason = reason_and_remedy(error, "choose another --out", folder)
        raise OutputError(
            f"the result of the search cannot be written to {str(folder)!r}: {reason}{goes_on(resume)}"
        ) from error


def _counted(outcomes: Iterator[Outcome], bar: Task) -> Iterator[Outcome]:
    for outcome in outcomes:
        yield outcome
        bar.advance()

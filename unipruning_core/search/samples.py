"""The samples of a search, one after the other: progress, saved states, and where a search may end early."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import ConfigError, DataError, OutputError, RunError
from unipruning_core.models.passes import pass_errors
from unipruning_core.search.fitting import memory_errors_explained
from unipruning_core.search.intervals import SAVE_EVERY, Interval, Pace
from unipruning_core.search.nonfinite import (
    CHECK_EVERY,
    FLAG,
    SKIPPED,
    Skipped,
    of_sample,
    sample_error,
    state_error,
)
from unipruning_core.stopping import Stopped, Stopping

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.data.calibration import Origin
    from unipruning_core.progress import Progress
    from unipruning_core.search.base import Search
    from unipruning_core.search.resume import Resume
    from unipruning_core.search.settings import Settings


@dataclass(frozen=True)
class Processed:
    """What the samples left besides the state of the search."""

    losses: list[float] = field(default_factory=list)  # of the samples that were not left out
    thresholds: list[float] = field(default_factory=list)  # one a step, if the mode has one
    skipped: list[dict[str, Any]] = field(default_factory=list)  # as run.json lists them
    kept: str = "nothing is saved"  # of the search, should its result be refused


def run_samples(
    run: Search,
    batches: Sequence[Tensor],  # each (1, tokens), int64
    progress: Progress,
    resume: Resume | None = None,
    save_every: float | str = SAVE_EVERY,
    *,
    origins: Sequence[Origin] = (),  # of each sample, where known
    skip_nonfinite: bool = False,
    stopping: Stopping | None = None,
) -> Processed:
    """Process every sample in order, from the last saved state on.

    Raises:
        ConfigError: memory ran out.
        DataError: a number of the search is not finite.
        RunError: the saved state is another search's.
        Stopped: a signal arrived; the state is saved.
    """
    run.skips_nonfinite = skip_nonfinite
    skipped = Skipped(run, len(batches), origins)
    losses: list[float] = []
    start = 0
    if resume and (saved := resume.found(len(batches))) is not None:
        for note in resume.notes:
            progress.note(note)
        resume.restore(run.tensors() | {SKIPPED: skipped.table}, run.parts())
        start, losses = saved["sample"], saved["losses"]
        if skipped and not skip_nonfinite:
            raise RunError(
                f"{str(resume.folder)!r} holds an unfinished search that left out samples; repeat the command with "
                f"{FLAG}, choose another --out, or discard it with --overwrite"
            )
        progress.note(f"resuming after sample {start} of {len(batches)}")
    if skip_nonfinite:
        progress.note("samples that are not finite are left out: each is read before it is used, and none is recorded")
    keeper = Keeper(run, skipped, losses, progress, resume, Interval.of(save_every), start)
    device = run.layers[0].device
    began = time.monotonic()
    tokens = 0
    with progress.task(run.settings.mode, len(batches), "samples", done=start) as bar:
        for first in range(start, len(batches), run.batch_size):
            samples = range(first, min(first + run.batch_size, len(batches)))
            number = (first - skipped.samples) // run.batch_size
            batch = [batches[sample].to(device) for sample in samples]
            where = of_sample(first, len(batches), origins)
            explained = memory_errors_explained(run, number, batch, where, lambda: keeper.sentence)
            with explained, pass_errors(run.model):
                made = run.process(number, batch)
            tokens += sum(batches[sample].numel() for sample in samples)
            while run.notes:
                progress.note(run.notes.pop(0))
            shown: dict[str, object] = {"tokens/s": round(tokens / (time.monotonic() - began))}
            for sample, loss in zip_longest(samples, made):
                if loss is not None and not math.isfinite(loss):
                    if not skip_nonfinite:
                        raise sample_error(run, sample, len(batches), origins, keeper.good, keeper.sentence)
                    skipped.add(sample, None)
                else:
                    skipped.add(sample, run.unusable)
                    if loss is not None:
                        losses.append(loss)
                        shown["loss"] = f"{loss:.3f}"
            run.unusable = []
            bar.advance(len(samples), **shown)
            if samples.stop < len(batches):
                keeper.after(samples.stop, stopping)
        keeper.check(len(batches))
    if skipped.samples == len(batches):
        raise DataError(
            f"all {len(batches)} samples were left out, since their losses or input statistics were not finite; "
            "load the model in another --dtype, or use a model whose outputs are finite"
        )
    if skipped:
        progress.note(skipped.note())
    thresholds = run.thresholds_of(len(batches) - skipped.samples)
    return Processed(losses, thresholds, list(skipped.entries()), keeper.sentence)


def check_skipping(settings: Settings, *, skip_nonfinite: bool) -> None:
    """Refuse to leave samples out of steps of several.

    Raises:
        ConfigError: both are asked for.
    """
    if skip_nonfinite and getattr(settings, "batch_size", 1) > 1:
        raise ConfigError(
            f"{FLAG} leaves out single samples, but --batch-size asks for steps of several; omit one of them"
        )


def check_skipping_over_ranks(*, skip_nonfinite: bool) -> None:
    """Refuse to leave samples out where processes share a search.

    Raises:
        ConfigError: that is asked for.
    """
    if skip_nonfinite:
        raise ConfigError(f"{FLAG} runs in one process, since a step over ranks has several samples; omit it")


def goes_on(resume: Resume) -> str:
    """Return the rest of a sentence about an end before the next state was saved."""
    if (last := resume.last_sample()) is None:
        return "; nothing is saved, and the same command starts anew"
    return f"; the state after sample {last} is kept, and the same command goes on from there"


class Keeper:
    """The state of a search between samples: whether it is finite, and what is saved of it."""

    def __init__(
        self,
        run: Search,
        skipped: Skipped,
        losses: list[float],
        progress: Progress,
        resume: Resume | None,
        interval: Interval,
        good: int,
    ) -> None:
        self.run, self.skipped, self.losses, self.progress = run, skipped, losses, progress
        self.resume = resume
        self.good = good  # samples after which the state was last seen to be finite
        self.pace = Pace(interval, sum(tensor.nbytes for tensor in run.tensors().values()))
        self._warned = False

    @property
    def samples(self) -> int:
        return len(self.skipped.table)

    @property
    def sentence(self) -> str:
        """What is kept of an unfinished search."""
        last = self.resume.last_sample() if self.resume else None
        return "nothing is saved" if last is None else f"the state after sample {last} is kept"

    def after(self, done: int, stopping: Stopping | None) -> None:
        """Save the state after so many samples if it is time, and end here if a signal asked for it."""
        world = self.run.world
        asked = world.each(None if stopping is None else stopping.number)
        number = next((number for number in asked if number is not None), None)
        if number is not None and self.resume is not None:
            self.check(done)
            why = self._save(self.resume, done)
            after = f" after sample {done} of {self.samples}"
            if why:
                rest = f", which could not be saved ({why}){goes_on(self.resume)}"
                raise Stopped(number, after + rest)
            raise Stopped(number, f"{after}, which is saved; the same command goes on from there")
        due = self.resume is not None and world.from_lead(self.pace.is_due(done))
        if due or done - self.good >= CHECK_EVERY:
            self.check(done)
        if due and self.resume is not None:
            with self.pace.saving():
                why = self._save(self.resume, done)
            if why and not self._warned:
                self._warned = True
                self.progress.note(
                    f"the state after sample {done} of {self.samples} could not be saved ({why}), which is tried again "
                    f"later; {self.sentence}"
                )

    def check(self, done: int) -> None:
        """Look at the whole state after so many samples.

        Raises:
            DataError: a tensor of it is not finite.
        """
        everywhere = self.run.world.each((self.run.first_unfinite(), self.run.first_unfinite_sample()))
        if (found := next((found for found, _ in everywhere if found is not None), None)) is not None:
            exact = next((exact for _, exact in everywhere if exact is not None), None)
            window = (self.good, done - 1) if exact is None else (exact, exact)
            kind, name = found
            raise state_error(self.run, kind, name, self.samples, window, self.skipped.origins, self.sentence)
        self.good = done

    def _save(self, resume: Resume, done: int) -> str:
        """Save the state; return why that failed, or nothing."""
        try:
            resume.save(done, self.run.tensors() | {SKIPPED: self.skipped.table}, self.losses, self.run.parts())
        except OSError as error:
            return error.strerror or str(error)
        except OutputError as error:
            return str(error)
        return ""

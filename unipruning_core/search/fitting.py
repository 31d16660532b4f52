"""What fits where memory runs out in a sample: found by trying."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError, chain
from unipruning_core.models.memory import LARGER_DEVICE, exhausted, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.base import Search

SHORTEST = 16  # tokens that are tried


@contextmanager
def memory_errors_explained(
    run: Search, number: int, batch: Sequence[Tensor], where: str, kept: Callable[[], str]
) -> Iterator[None]:
    """Say, if memory runs out in a step of samples, each (1, tokens) int64, which options let the step succeed.

    They are tried on the search itself, which is over.  ``where`` names the first sample, ``kept`` says what is saved.

    Raises:
        ConfigError: memory ran out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        numbers = exhausted(error)
        _free(error)
        raise ConfigError(
            f"the {run.backend.name} device ran out of memory ({numbers}) in {where}, of {batch[0].shape[1]} tokens; "
            f"{kept()}; {_what_fits(run, number, batch)}"
        ) from error


def _what_fits(run: Search, number: int, batch: Sequence[Tensor]) -> str:
    if run.world.size > 1:  # the other ranks would have to try it too
        return "use --checkpoint-activations on, a shorter --seq-len, or more ranks"
    recomputing = ""
    if run.settings.follows_loss and not run.recomputes:
        run.recomputes = True
        if _fits(run, number, batch):
            return "the sample fits with --checkpoint-activations on, which may be added to the same command"
        recomputing = " --checkpoint-activations on"
    tokens = batch[0].shape[1]
    while (tokens := tokens // 2) >= SHORTEST:
        if _fits(run, number, [input_ids[:, :tokens] for input_ids in batch]):
            return f"a sample fits with --seq-len {tokens}{recomputing}"
    other = "" if run.settings.mode == "frozen" else "--mode frozen or "
    return f"shorter samples do not fit either, so use {other}{LARGER_DEVICE.removeprefix('use ')}"


def _fits(run: Search, number: int, batch: Sequence[Tensor]) -> bool:
    try:
        run.process(number, batch)
    # whatever it is, the options did not help
    except Exception as error:
        _free(error)
        return False
    return True


def _free(error: BaseException) -> None:
    """Drop what the frames of a failed step hold: all its activations."""
    for cause in chain(error):
        traceback.clear_frames(cause.__traceback__)
    gc.collect()

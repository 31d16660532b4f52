"""A search with the decoder's blocks compiled: where it can be had, and what is said where it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from unipruning_core.errors import ConfigError, first_line
from unipruning_core.models.borders import is_of_a_library
from unipruning_core.models.compiled import CompiledBlocks, called_apart
from unipruning_core.models.decoder import decoder_blocks

if TYPE_CHECKING:
    from unipruning_core.progress import Progress
    from unipruning_core.search.base import Search

FLAG = "--compile"


def check_compiling_over_ranks(*, compiles: bool) -> None:
    """Refuse to compile where processes share a search.

    Raises:
        ConfigError: that is asked for.
    """
    if compiles:
        raise ConfigError(f"{FLAG} runs in one process, since over ranks hooks gather the blocks; omit it")


@contextmanager
def compiled_blocks(run: Search, batches: Sequence[Tensor], progress: Progress) -> Iterator[str | None]:
    """Run the blocks of a search's model compiled inside; yield why they are not, or None where they are.

    All is compiled beforehand, in passes over a sample of which nothing is kept; so a search that goes on in another
    process computes what this one would.
    """
    blocks = decoder_blocks(run.model)[1]
    compiled = CompiledBlocks(blocks, called_apart(blocks, run.layers))
    # where torch sees a second length, it compiles once for all lengths
    longest, shortest = max(batches, key=Tensor.numel), min(batches, key=Tensor.numel)
    rehearsals = [longest] if longest.shape == shortest.shape else [longest, shortest]
    began = time.monotonic()
    progress.note("compiling the decoder blocks")
    with ExitStack() as stack:
        why = None
        try:
            with ExitStack() as trial, compiled.rehearsed():
                trial.enter_context(compiled.installed())
                for input_ids in rehearsals:
                    run.rehearse(input_ids.to(run.layers[0].device))
                stack.enter_context(trial.pop_all())
        # whatever a compiler, or the model while it is traced, raises
        except Exception as error:
            if not is_of_a_library(error):
                raise
            # torch puts what its compiler raises into an error of its own
            why = first_line(getattr(error, "inner_exception", error))
        if why is None and not compiled.graphs:
            why = "torch found nothing in them to compile"
        if why is None:
            stack.enter_context(compiled.settled())
            progress.note(f"compiled {compiled.graphs} graphs in {time.monotonic() - began:.0f} s")
        else:
            stack.close()
            progress.note(f"the decoder blocks run as they are, since they could not be compiled: {why}")
        yield why

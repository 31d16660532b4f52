"""Decoder blocks compiled by ``torch.compile``: what stands between their matrices is fused into few kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from unipruning_core.models.replaced_forward import replaced_forward

if TYPE_CHECKING:
    from torch import nn

    from unipruning_core.models.layer import Layer

    Compiler: TypeAlias = Callable[[Any, Any], Any]  # from a graph and its first inputs to a function of inputs

# without it the fastest kernel is found by timing, and another kernel may round in another way
OPTIONS = {"deterministic": True}
MOST = 1024  # compilations of one function: a model may have a block of its own kind at every depth
LOGGERS = ("torch._dynamo", "torch._functorch", "torch._inductor")
SETTLED = "eager_on_recompile"  # what torch does where it has compiled nothing that fits


class CompiledBlocks:
    """Blocks that run compiled while ``installed``, but for the ``apart`` modules in them, which are called as ever.

    Hooks, and weights that change from pass to pass, are no part of what is traced; so a module with either is apart.
    What a rehearsal has not compiled runs as it is: nothing is compiled later, so that what a pass computes does not
    depend on the passes before it.
    """

    def __init__(self, blocks: Iterable[nn.Module], apart: Iterable[nn.Module]) -> None:
        self.blocks, self.apart = list(blocks), list(apart)
        self.graphs = 0  # that were compiled

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Run the blocks compiled inside; what is not compiled yet is compiled where it first runs."""
        from torch._dynamo import config

        compiler = self._counting()
        # beyond its limits torch would go on without compiling; 2.6 calls them otherwise
        one, kind = ("recompile", "recompile") if hasattr(config, "recompile_limit") else ("cache_size", "cache")
        limits = {f"{one}_limit": MOST, f"accumulated_{one}_limit": MOST, f"fail_on_{kind}_limit_hit": True}
        with config.patch(limits), _called_as_ever(self.apart), ExitStack() as stack:
            for block in self.blocks:
                forward = torch.compile(block.forward, backend=compiler)
                stack.enter_context(replaced_forward(block, forward))
            yield

    @contextmanager
    def rehearsed(self) -> Iterator[None]:
        """Keep to itself what torch has to remark while it compiles; an error is raised, and said by the caller."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        quiet = [(logger, logger.level) for logger in loggers if logger.getEffectiveLevel() == logging.WARNING]
        for logger, _ in quiet:  # but for those that $TORCH_LOGS turns up
            logger.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            for logger, level in quiet:
                logger.setLevel(level)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Compile nothing more inside."""
        with torch.compiler.set_stance(SETTLED):
            yield

    def _counting(self) -> Compiler:
        """Return the compiler, one function for all blocks, since what is compiled is used again by it alone."""
        compiler = inductor()

        def counting(graph: Any, inputs: Any) -> Any:
            made = compiler(graph, inputs)
            self.graphs += 1
            return made

        return counting


def inductor() -> Compiler:
    """Return torch's own compiler, which writes C++ or Triton."""
    from torch._inductor import list_options
    from torch._inductor.compile_fx import compile_fx

    options = {name: value for name, value in OPTIONS.items() if name in list_options()}  # not in every version
    return partial(compile_fx, config_patches=options)


def called_apart(blocks: Iterable[nn.Module], layers: Iterable[Layer]) -> list[nn.Module]:
    """Return the modules that no block's compilation may look into, for a search on these layers.

    They are the layers, and of a mixture all that holds its experts, which differ in their tokens from sample to
    sample.
    """
    apart: list[nn.Module] = []
    experts: set[nn.Module] = set()
    for layer in layers:
        apart += layer.modules
        if layer.siblings:
            experts.add(layer.module if layer.stack is None else layer.stack.module)
    mixtures = [part for block in blocks for part in block.children() if not experts.isdisjoint(part.modules())]
    return list(dict.fromkeys([*apart, *mixtures]))


@contextmanager
def _called_as_ever(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have torch trace nothing of the call of these modules, hooks included.

    That is said by their class, one for all of a kind: what is compiled for one block then serves the others.
    """
    kinds: dict[type[nn.Module], type[nn.Module]] = {}
    before: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for module in modules:
            kind = type(module)
            if kind not in kinds:
                call = torch.compiler.disable(kind.__call__)
                kinds[kind] = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
            before.append((module, kind))
            module.__class__ = kinds[kind]
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind

"""What a model's own forward and backward passes raise, in one sentence that names the model and the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError, reason_and_remedy
from unipruning_core.models.borders import is_of_a_library

if TYPE_CHECKING:
    from torch import nn

OURS, AUTOGRAD = "unipruning", ("torch.autograd", "torch._tensor")  # how names of modules of Python begin
REMEDY = (
    "check that the model runs in this version of transformers with as many tokens at once, or pass a shorter --seq-len"
)


@contextmanager
def pass_errors(model: nn.Module) -> Iterator[None]:
    """Turn what the model itself raises in the passes made inside into one sentence; all else passes as it is.

    Raises:
        CheckpointError: a module of the model, or the backward pass through it, failed.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_a_library(error) or (place := _place(model, error)) is None:
            raise
        raise CheckpointError(
            f"model {name_of(model)!r} failed in {place}: {reason_and_remedy(error, REMEDY)}"
        ) from error


def name_of(model: nn.Module) -> str:
    """Return what a model is called in messages: where it came from, or its class."""
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def _place(model: nn.Module, error: BaseException) -> str | None:
    """Return the innermost module of the model that was running, or None where the error is not the model's.

    It is ours if a function of ours was called after that module, as hooks are.
    """
    names = {id(module): name for name, module in model.named_modules()}
    called = ""  # by the frame that is looked at
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        module = frame.f_locals.get("self")
        if id(module) in names:
            kind, name = type(module).__name__, names[id(module)]
            return f"{name!r} ({kind})" if name else f"the forward pass of its {kind}"
        caller = str(frame.f_globals.get("__name__", ""))
        if caller.startswith(OURS):
            return "its backward pass" if called.startswith(AUTOGRAD) else None
        called = caller
    return None

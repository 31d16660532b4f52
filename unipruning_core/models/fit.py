"""Whether a checkpoint and the model that its config describes belong together, by names and shapes alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel

    from unipruning_core.storage.checkpoint import Checkpoint


def check_embeddings(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose embedding or head, the matrices that grow with a vocabulary, has another shape.

    Raises:
        CheckpointError: it has.
    """
    base = f"{model.base_model_prefix}."
    matrices = [
        getattr(_part(get), "weight", None) for get in (model.get_input_embeddings, model.get_output_embeddings)
    ]
    for name, parameter in model.named_parameters():
        if not any(parameter is matrix for matrix in matrices):
            continue
        # either the checkpoint or the model may be a bare decoder
        stored = next((n for n in (name, name.removeprefix(base), base + name) if n in checkpoint.tensors), None)
        info = checkpoint.tensors[stored] if stored else None
        if info and info.dtype.is_floating_point and info.dtype.itemsize > 1 and info.shape != tuple(parameter.shape):
            raise shape_error(str(stored), info.shape, tuple(parameter.shape))


def shape_error(name: str, stored: tuple[int, ...] | None, described: tuple[int, ...]) -> CheckpointError:
    """Return the error of a tensor whose stored shape, None where it is unknown, is not that of the config."""
    other = "of another shape" if stored is None else str(tuple(stored))
    return CheckpointError(
        f"tensor {name!r} is {other} in the checkpoint but {tuple(described)} by its config; use the config that "
        "belongs to the checkpoint"
    )


@contextmanager
def prefix_explained(model: nn.Module, checkpoint: Checkpoint) -> Iterator[None]:
    """Say, where tensors are missed inside, that a prefix of all names is why; some prefixes are known to transformers.

    Raises:
        CheckpointError: it is.
    """
    try:
        yield
    except CheckpointError as error:
        own = model.state_dict(keep_vars=True).keys()
        if not (prefix := strange_prefix(own, checkpoint.tensors)):
            raise
        raise CheckpointError(
            f"the names of all {len(checkpoint.tensors)} tensors in {str(checkpoint.folder)!r} begin with {prefix!r}, "
            "which the model's own do not, as where a compiled or wrapped model was saved; save the model inside it, "
            "or remove that prefix from the names"
        ) from error


def strange_prefix(own: Collection[str], stored: Collection[str]) -> str:
    """Return the shortest prefix of all stored names without which one is the model's own, or nothing if none is."""
    paths = [name.split(".")[:-1] for name in stored]
    shared = list(takewhile(lambda parts: parts[0] == parts[1], zip(min(paths), max(paths), strict=False)))
    for count in range(1, len(shared) + 1):
        prefix = "".join(f"{part}." for part, _ in shared[:count])
        if not any(name.startswith(prefix) for name in own) and any(name[len(prefix) :] in own for name in stored):
            return prefix
    return ""


def _part(get: Callable[[], nn.Module | None]) -> nn.Module | None:
    try:
        return get()
    # what models raise that look tokens up in another way
    except (AttributeError, NotImplementedError):
        return None

"""Whether the backward pass computes activations again, and an estimate of the memory that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.errors import ConfigError
from unipruning_core.models.decoder import text_model
from unipruning_core.models.memory import GIB
from unipruning_core.models.passes import pass_errors
from unipruning_core.search.language_loss import logits_held
from unipruning_core.search.modes import MODES
from unipruning_core.search.settings import RECOMPUTATION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.data.calibration import Calibration
    from unipruning_core.progress import Progress
    from unipruning_core.search.base import Search
    from unipruning_core.search.settings import Settings

STEP = 64  # tokens


def check_choice(choice: str, settings: Settings) -> None:
    """Refuse a value of ``--checkpoint-activations`` that does not exist or has no use in the mode.

    Raises:
        ConfigError: it is not one of ``RECOMPUTATION``, or is "on" for a mode without a backward pass.
    """
    if choice not in RECOMPUTATION:
        raise ConfigError(f"--checkpoint-activations must be one of {', '.join(RECOMPUTATION)}, not {choice!r}")
    if choice == "on" and not settings.follows_loss:
        modes = ", ".join(name for name, kind in MODES.items() if kind.follows_loss)
        raise ConfigError(
            f"--checkpoint-activations on is for the modes with a backward pass ({modes}); omit it with --mode "
            f"{settings.mode}, which keeps no activations"
        )


def decide_recomputation(choice: str, run: Search, samples: Calibration, room: int | None, progress: Progress) -> bool:
    """Return whether to compute activations again; "auto" does so where they do not fit, and says so.

    ``room`` is in bytes, what is free beside the search; None if unknown.
    """
    if choice != "auto" or not run.settings.follows_loss or room is None:
        return choice == "on"
    longest = max(samples.batches, key=Tensor.numel).to(run.layers[0].device)
    if (needed := activation_bytes(run.model, longest)) <= room:
        return False
    progress.note(
        f"the backward pass computes activations again, which takes more time: those of a sample need some "
        f"{needed / GIB:.1f} GiB, but only {max(room, 0) / GIB:.1f} GiB is free beside the search; "
        "--checkpoint-activations off keeps them"
    )
    return True


def activation_bytes(model: PreTrainedModel, input_ids: Tensor) -> int:
    """Estimate the bytes of activations at the end of the forward pass of a sample, (1, tokens) int64.

    What autograd saves is a polynomial of the number of tokens, quadratic if attention keeps its scores; it is taken
    from three short forward passes.  Then come four float32 copies of the logits that are in memory at a time.
    """
    tokens = input_ids.shape[1]
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 0)
    logits = 4 * 4 * logits_held(tokens, vocabulary)
    if tokens <= 3 * STEP:
        return _saved_bytes(model, input_ids) + logits
    one, two, three = (_saved_bytes(model, input_ids[:, : n * STEP]) for n in (1, 2, 3))
    steps = tokens / STEP - 1
    curvature = max(0, three - 2 * two + one)
    return int(one + steps * (two - one) + steps * (steps - 1) / 2 * curvature) + logits


def _saved_bytes(model: PreTrainedModel, input_ids: Tensor) -> int:
    """Return the bytes that autograd saves in a forward pass, besides the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}  # bytes by address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        # an operator's own result would hold the operator, and both would stay, since no backward pass follows
        return tensor.detach()

    with pass_errors(model), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = text_model(model)(input_ids=input_ids, use_cache=False)
    del output  # until now every address was in use
    return sum(saved.values())

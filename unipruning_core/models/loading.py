"""Models from their names: config and tokenizer first, weights last, each fault as one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from unipruning_core.errors import CheckpointError, ConfigError, first_line
from unipruning_core.models.placement import spread
from unipruning_core.models.targets import LeftOut, find_targets
from unipruning_core.progress import Progress
from unipruning_core.storage.checkpoint import Checkpoint, Target

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend

DTYPES = ("auto", "float32", "bfloat16", "float16")
LONGEST_WINDOW = 2048  # tokens; what published results calibrate and evaluate with


def dtype_name(dtype: torch.dtype) -> str:
    """As the command line spells it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is loaded."""

    name: str  # a folder or a hub id
    dtype: str = "auto"  # of the loaded weights; auto is the checkpoint's own
    trust_remote_code: bool = False


def load_config_and_tokenizer(checkpoint: Checkpoint, choice: ModelChoice) -> tuple[PretrainedConfig, Any]:
    """The two light parts of a model."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        options = {"trust_remote_code": choice.trust_remote_code}
        return (
            AutoConfig.from_pretrained(checkpoint.folder, **options),
            AutoTokenizer.from_pretrained(checkpoint.folder, **options),
        )
    # what transformers lets through for a folder that is incomplete or of a kind unknown to it
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        hint = "; pass --trust-remote-code if you trust its code" if "trust_remote_code" in str(error) else ""
        raise CheckpointError(
            f"model {choice.name!r} has no usable config and tokenizer: {first_line(error)}{hint}"
        ) from error


def check_seq_len(config: PretrainedConfig, seq_len: int) -> None:
    """Refuse a length the model has no positions for, before the model is loaded."""
    if seq_len < 2:
        raise ConfigError(f"--seq-len must be at least 2, so that a token can be predicted, not {seq_len!r}")
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and seq_len > longest:
        raise ConfigError(f"--seq-len {seq_len} is more than the model's {longest} positions; give at most {longest}")


def window_length(config: PretrainedConfig, asked: int | None) -> int:
    """The length of a window in tokens: as asked, else LONGEST_WINDOW or what the model has positions for."""
    if asked is None:
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        return min(LONGEST_WINDOW, positions or LONGEST_WINDOW)
    check_seq_len(config, asked)
    return asked


def find_targets_of_config(
    checkpoint: Checkpoint, config: PretrainedConfig, choice: ModelChoice
) -> tuple[list[Target], list[LeftOut]]:
    """The targets of a model, found on a copy that has shapes and no weights."""
    with torch.device("meta"):
        model = build_model(choice.name, config, trust_remote_code=choice.trust_remote_code)
    layers, left_out = find_targets(model, checkpoint)
    return [layer.target for layer in layers], left_out


def build_model(
    name: str, config: PretrainedConfig, *, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model from its config alone, on the device and in the tensor mode that hold where this is called."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    # and what code that comes with a model raises where it expects another device or another transformers
    except (ValueError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"model {name!r} is not a causal language model that can be built: {first_line(error)}"
        ) from error


def choose_dtype(choice: ModelChoice, checkpoint: Checkpoint, backend: Backend, progress: Progress) -> torch.dtype:
    """The dtype asked for; "auto" is what most of the checkpoint's bytes have, or what the device runs it well in."""
    if choice.dtype not in DTYPES:
        raise ConfigError(f"dtype is one of {', '.join(DTYPES)}, not {choice.dtype!r}")
    if choice.dtype != "auto":
        named: torch.dtype = getattr(torch, choice.dtype)
        return named
    held: dict[torch.dtype, int] = {}
    for info in checkpoint.tensors.values():
        if info.dtype in (torch.float32, torch.bfloat16, torch.float16):
            held[info.dtype] = held.get(info.dtype, 0) + info.nbytes
    stored = max(held, key=lambda dtype: held[dtype], default=torch.bfloat16)
    loaded = backend.loading_dtype(stored)
    if loaded != stored:
        was, now = dtype_name(stored), dtype_name(loaded)
        progress.note(f"loading in {now}, since this device is slow in {was}; --dtype {was} keeps to what is stored")
    return loaded


def load_model(
    folder: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    room: Sequence[int] = (),
    *,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load the model of a folder in evaluation mode.

    It lies on one device, or on as many as ``room`` has entries: bytes of weights for each.

    Raises:
        ConfigError: it does not fit the several devices.
        CheckpointError: it cannot be loaded, or lacks weights, which would otherwise be filled with random numbers.
    """
    from transformers import AutoModelForCausalLM

    try:
        with hidden_bars():
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
            )
    # what transformers lets through for a folder that is missing, damaged, unknown to it or of foreign shapes
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"model {str(folder)!r} cannot be loaded: {first_line(error)}; pass a folder with a causal language model, "
            "as save_pretrained writes it"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {str(folder)!r} lacks {len(missing)} weights that its config asks for, {missing[0]!r} first; "
            "copy the complete checkpoint"
        )
    loaded: PreTrainedModel = spread(model, str(device), room) if len(room) > 1 else model.to(device)
    return loaded.eval()


@contextmanager
def hidden_bars() -> Iterator[None]:
    """No progress bars of the model library; the command line has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

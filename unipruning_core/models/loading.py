"""Loading a model by its name: config and tokenizer first, weights last, every error in one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.named import check_dtype
from unipruning_core.models.placement import spread
from unipruning_core.progress import Progress
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.config import check_config, check_side_files, read_config
from unipruning_core.storage.layout import CONFIG_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype as the command line spells it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def dtype_remedy(dtype: torch.dtype) -> str:
    """Return what to try where numbers in ``dtype`` were not finite; empty for float32, which has the most range."""
    if dtype == torch.float32:
        return ""
    return "use --dtype float32" if dtype == torch.bfloat16 else "use --dtype bfloat16 or float32"


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load, and how."""

    name: str  # a folder or a hub id
    dtype: str = "auto"  # to load the weights in; see ``choose_dtype``
    trust_remote_code: bool = False

    def folders(self) -> list[tuple[str, Path]]:
        """Return the folder that is named, if it is one, without opening it."""
        return [("model", Path(self.name))] if os.path.isdir(self.name) else []


@collector_at_rest()
def load_config_and_tokenizer(checkpoint: Checkpoint, choice: ModelChoice) -> tuple[PretrainedConfig, Any]:
    """Load the two light parts of a model."""
    from transformers import AutoConfig, AutoTokenizer

    config = checkpoint.folder / CONFIG_FILE
    check_config(config, read_config(config), checkpoint.tensors.values())
    check_side_files(checkpoint.folder)
    options = {"trust_remote_code": choice.trust_remote_code}
    what = f"model {choice.name!r} has no usable config and tokenizer"
    with library_errors_as(CheckpointError, what, "copy the complete checkpoint"):
        return (
            AutoConfig.from_pretrained(checkpoint.folder, **options),
            AutoTokenizer.from_pretrained(checkpoint.folder, **options),
        )


def build_outline(config: PretrainedConfig, choice: ModelChoice) -> PreTrainedModel:
    """Build a model that has shapes but no weights."""
    with torch.device("meta"):
        return build_model(choice.name, config, trust_remote_code=choice.trust_remote_code)


@collector_at_rest()
def build_model(
    name: str, config: PretrainedConfig, *, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Build a model from its config alone, under the caller's device context and tensor mode."""
    from transformers import AutoModelForCausalLM

    # including what a model's own code raises if it expects another device or version of transformers
    what = f"model {name!r} cannot be built as a causal language model"
    with library_errors_as(CheckpointError, what, "check its config"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def embedding_rows(model: PreTrainedModel) -> int | None:
    """Return how many token ids the input embedding has rows for, or None if the model has no plain one."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    # what models raise that look tokens up in another way
    except (AttributeError, NotImplementedError):
        return None


def choose_dtype(choice: ModelChoice, checkpoint: Checkpoint, backend: Backend, progress: Progress) -> torch.dtype:
    """Return the requested dtype; "auto" is that of most of the checkpoint's bytes, or one the device runs well."""
    check_dtype(choice.dtype)
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
        progress.note(f"loading in {now}, since this device is slow in {was}; --dtype {was} keeps the stored dtype")
    return loaded


def load_model(
    folder: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    bytes_per_device: Sequence[int] = (),
    *,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load the model in a folder, in evaluation mode.

    It is placed on one device, or over several with ``bytes_per_device`` of its weights.

    Raises:
        ConfigError: it does not fit on the devices.
        CheckpointError: it cannot be loaded, or lacks weights, which would otherwise be filled with random numbers.
    """
    from transformers import AutoModelForCausalLM

    what = f"model {str(folder)!r} cannot be loaded"
    remedy = "pass a folder with a causal language model, as save_pretrained writes it"
    with library_errors_as(CheckpointError, what, remedy), hidden_bars():
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {str(folder)!r} lacks {len(missing)} of the weights that its config requires (first: "
            f"{missing[0]!r}); copy the complete checkpoint"
        )
    loaded: PreTrainedModel = (
        spread(model, str(device), bytes_per_device) if len(bytes_per_device) > 1 else model.to(device)
    )
    return loaded.eval()


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Hide the model library's progress bars; the command line has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

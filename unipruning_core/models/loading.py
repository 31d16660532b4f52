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
from unipruning_core.models.auto import auto_class, loader
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.divided import parameters_without_values
from unipruning_core.models.fit import shape_error
from unipruning_core.models.hub import local_folder, resolve_model
from unipruning_core.models.kinds import check_kind
from unipruning_core.models.named import check_dtype
from unipruning_core.models.placement import spread
from unipruning_core.models.remote_code import check_code_caches, check_implementations
from unipruning_core.progress import Progress
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.config import check_config, check_side_files, read_config
from unipruning_core.storage.layout import CONFIG_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unipruning_core.backend import Backend
ADAPTER_FILE = "adapter_config.json"
ELSEWHERE = "name a folder or a hub id that has it with --tokenizer"
# beside which there is a tokenizer, whatever its kind: byte tokenizers have no vocabulary
TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "*vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


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
    tokenizer: str | None = None  # a folder or a hub id; None for the model's own
    targets: TargetChoice = BY_ROLE
    revision: str | None = None  # of a model on the hub; None for its newest

    def resolved(self) -> Path:
        """Return the model's folder, downloaded once if it is on the hub; raises as ``resolve_model``."""
        return resolve_model(self.name, trust_remote_code=self.trust_remote_code, revision=self.revision)

    def folders(self) -> list[tuple[str, Path]]:
        """Return the folders that are named, without opening them."""
        named = {"model": self.name, "tokenizer": self.tokenizer}
        return [(what, Path(name)) for what, name in named.items() if name is not None and os.path.isdir(name)]


@collector_at_rest()
def load_config_and_tokenizer(checkpoint: Checkpoint, choice: ModelChoice) -> tuple[PretrainedConfig, Any]:
    """Load the two light parts of a model.

    Raises:
        CheckpointError: one is missing or damaged, or the model is not only what its weights are.
    """
    from transformers import AutoConfig

    path = checkpoint.folder / CONFIG_FILE
    check_config(path, read_config(path), checkpoint.tensors.values())
    check_side_files(checkpoint.folder)
    if (checkpoint.folder / ADAPTER_FILE).is_file():
        raise CheckpointError(
            f"model {choice.name!r} has an adapter in {ADAPTER_FILE!r}, which would be part of it only where peft is "
            "installed; merge it into the weights with merge_and_unload, or move it elsewhere"
        )
    if choice.trust_remote_code:
        check_code_caches(checkpoint.folder)
    what = f"model {choice.name!r} has no usable config"
    with library_errors_as(CheckpointError, what, "copy the complete checkpoint"):
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=choice.trust_remote_code)
    if not choice.trust_remote_code:
        check_implementations(choice.name, config)
    check_kind(choice.name, config, checkpoint.tensors)
    auto_class(choice.name, config, trust_remote_code=choice.trust_remote_code)  # refuses what none can open
    return config, load_tokenizer(checkpoint.folder, choice)


def load_tokenizer(folder: Path, choice: ModelChoice) -> Any:
    """Load the tokenizer that is chosen, or else the one beside the weights.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    place: str | Path = folder
    what, remedy = f"model {choice.name!r}", f"copy its files there, or {ELSEWHERE}"
    # that of the model itself is beside its weights, of the same revision
    if choice.tokenizer is not None and choice.tokenizer != choice.name:
        what, remedy = f"tokenizer {choice.tokenizer!r}", "pass a folder or a hub id with a tokenizer"
        found = local_folder(choice.tokenizer, "tokenizer")
        place = choice.tokenizer if found is None else found
    if isinstance(place, Path):
        check_side_files(place)
        if not any(path.match(pattern) for path in place.iterdir() for pattern in TOKENIZER_FILES):
            raise CheckpointError(f"{what} has no tokenizer files, such as tokenizer.json; {remedy}")
    with library_errors_as(CheckpointError, f"{what} has no usable tokenizer", remedy):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=choice.trust_remote_code)


def build_outline(config: PretrainedConfig, choice: ModelChoice) -> PreTrainedModel:
    """Build a model that has shapes but no weights."""
    with torch.device("meta"):
        return build_model(choice.name, config, trust_remote_code=choice.trust_remote_code)


def build_without_values(config: PretrainedConfig, choice: ModelChoice, dtype: torch.dtype) -> PreTrainedModel:
    """Build a model, in evaluation mode, whose parameters have only shapes and whose buffers are as it makes them."""
    with parameters_without_values():
        model = build_model(choice.name, config, trust_remote_code=choice.trust_remote_code, dtype=dtype)
    return model.eval()


@collector_at_rest()
def build_model(
    name: str, config: PretrainedConfig, *, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Build a model from its config alone, under the caller's device context and tensor mode."""
    try:
        from transformers.initialization import no_init_weights
    # before transformers 5
    except ImportError:
        from transformers.modeling_utils import no_init_weights

    if not trust_remote_code:
        check_implementations(name, config)
    check_kind(name, config)
    kind = auto_class(name, config, trust_remote_code=trust_remote_code)
    # including what a model's own code raises if it expects another device or version of transformers
    what = f"model {name!r} cannot be built as a causal language model"
    with library_errors_as(CheckpointError, what, "check its config"):
        # random weights are of no use, and to draw them some read values, which such tensors do not have
        with no_init_weights():
            model: PreTrainedModel = kind.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        model.tie_weights()
        return model


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
    stored = stored_dtype(checkpoint)
    loaded = backend.loading_dtype(stored)
    if loaded != stored:
        was, now = dtype_name(stored), dtype_name(loaded)
        progress.note(f"loading in {now}, since this device is slow in {was}; --dtype {was} keeps the stored dtype")
    return loaded


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype of most of the checkpoint's bytes, or bfloat16 where none are in one to load weights in."""
    held: dict[torch.dtype, int] = {}
    for info in checkpoint.codes.weights.values():
        if info.dtype in (torch.float32, torch.bfloat16, torch.float16):
            held[info.dtype] = held.get(info.dtype, 0) + info.nbytes
    return max(held, key=lambda dtype: held[dtype], default=torch.bfloat16)


def load_model(
    folder: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    bytes_per_device: Sequence[int] = (),
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,  # of the folder, where it is open already
) -> PreTrainedModel:
    """Load the model in a folder, in evaluation mode, and note which tensors it has no use for.

    It is placed on one device, or over several with ``bytes_per_device`` of its weights.

    Raises:
        ConfigError: it does not fit on the devices.
        CheckpointError: it cannot be loaded, or lacks weights, which would otherwise be filled with random numbers.
    """
    from transformers import AutoConfig

    what = f"model {str(folder)!r} cannot be loaded"
    remedy = "pass a folder with a causal language model, as save_pretrained writes it"
    # sizes that do not fit are let pass, so that they are known here
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    checkpoint = checkpoint or Checkpoint.open(folder)
    checkpoint.codes.check_loadable()
    with library_errors_as(CheckpointError, what, remedy), hidden_bars():
        if checkpoint.codes.can_be_decoded:
            model, loading = load_decoded(checkpoint, trust_remote_code=trust_remote_code, **options)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            kind = auto_class(str(folder), config, trust_remote_code=trust_remote_code)
            model, loading = loader(kind, config, trust_remote_code=trust_remote_code)(folder, **options)
    # before transformers 5 names alone, now with the shapes
    if mismatched := sorted(key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]):
        info = checkpoint.tensors.get(mismatched[0])
        raise shape_error(mismatched[0], info.shape if info else None, model.state_dict()[mismatched[0]].shape)
    if missing := sorted(loading["missing_keys"]):
        checkpoint.codes.check_prunable()  # which names the layout that they may be in
        raise CheckpointError(
            f"model {str(folder)!r} lacks {len(missing)} of the weights that its config requires (first: "
            f"{missing[0]!r}); copy the complete checkpoint"
        )
    if progress is not None and (unused := sorted(loading["unexpected_keys"])):
        others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        progress.note(f"not part of the {type(model).__name__}, and copied as it is: {unused[0]!r}{others}")
    loaded: PreTrainedModel = (
        spread(model, str(device), bytes_per_device) if len(bytes_per_device) > 1 else model.to(device)
    )
    return loaded.eval()


def load_decoded(
    checkpoint: Checkpoint, *, dtype: torch.dtype, trust_remote_code: bool, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a quantised checkpoint as the model that it stands for, without the library's own decoders.

    These need packages and devices that may not be there, and leave codes and scales in the model.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=trust_remote_code)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    with torch.device("meta"):
        kind = type(build_model(str(checkpoint.folder), config, trust_remote_code=trust_remote_code))
    held = {}
    for name in checkpoint.codes.weights:
        values = checkpoint.codes.values(name)
        held[name] = values.to(dtype) if checkpoint.codes.holds(name) else values
    loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
        None, config=config, state_dict=held, dtype=dtype, **options
    )
    return loaded


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

"""What a model folder must hold, by the names of its files alone; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.paths import path_errors_as
from unipruning_core.storage.quantised import check_not_gguf

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VOICES = "spk_dict.pt"  # without which transformers does not load a Qwen2.5-Omni; pickled, but not the model's weights
COMMIT = re.compile("[0-9a-f]{40}")
SAVE_SAFELY = "save it as safetensors with model.save_pretrained(folder, safe_serialization=True)"


def check_layout(folder: Path) -> None:
    """Refuse a folder without a config, or without weights that can be read.

    Raises:
        CheckpointError: something is missing, or the weights are pickled.
    """
    with path_errors_as(CheckpointError, f"model {str(folder)!r}"):
        there = {name for name in (CONFIG_FILE, SINGLE_FILE, INDEX_FILE) if (folder / name).is_file()}
        pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if CONFIG_FILE not in there:
        raise CheckpointError(f"{str(folder)!r} is not a model folder: it has no {CONFIG_FILE}; check the path")
    if len(there) > 1:
        return
    if pickled:
        raise CheckpointError(f"{str(folder)!r} has only pickled weights ({pickled[0]!r}); {SAVE_SAFELY}")
    check_not_gguf(folder)
    raise CheckpointError(f"{str(folder)!r} has neither {SINGLE_FILE} nor {INDEX_FILE}; {SAVE_SAFELY}")


def revision_of(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache, which has its name, or None for any other folder."""
    folder = folder.absolute()
    in_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.name if in_cache and COMMIT.fullmatch(folder.name) else None

"""The files beside the weights of a model: which of them belong to it and are copied, and which are not."""

from __future__ import annotations

import os
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, VOICES

# files that are not copied: the first match gives the reason
LEFT_OUT = (
    ("*.safetensors", "weights that are no part of the model"),
    ("*.safetensors.index.json", "an index of weights that are no part of the model"),
    ("*.bin.index.json", "an index of pickled weights"),
    ("*.bin", "pickled weights"),
    ("*.pt", "pickled weights"),
    ("*.pth", "pickled weights"),
    ("*.h5", "weights for another framework"),
    ("*.msgpack", "weights for another framework"),
    ("*.gguf", "weights for another framework"),
    ("*.onnx", "weights for another framework"),
    ("*.onnx_data", "weights for another framework"),
)
FOLDERS_LEFT_OUT = (".git", ".cache")
LEADS_OUTSIDE = "a link to a file outside the model"


def files_to_copy(folder: Path, shards: Collection[str]) -> tuple[list[Path], dict[str, str]]:
    """Return a model's files besides its shards, relative to the folder, and those left out, with the reason.

    Raises:
        CheckpointError: the config or the index leads outside the folder.
    """
    copied: list[Path] = []
    left_out: dict[str, str] = {}
    index = None if SINGLE_FILE in shards else Path(INDEX_FILE)
    for root, folders, files in os.walk(folder):
        here = Path(root).relative_to(folder)
        for name in sorted(folders):
            if reason := _why_folder_left_out(Path(root) / name):
                left_out[f"{(here / name).as_posix()}/"] = reason
        folders[:] = sorted(name for name in folders if not _why_folder_left_out(Path(root) / name))
        for path in (here / name for name in sorted(files)):
            if path.as_posix() in shards:
                continue
            if path != index and (reason := _why_file_left_out(folder / path)):
                left_out[path.as_posix()] = reason
            elif not stays_inside(folder, folder / path):
                left_out[path.as_posix()] = LEADS_OUTSIDE
            else:
                copied.append(path)
    for name in (CONFIG_FILE, INDEX_FILE):
        if name in left_out and Path(name) in (index, Path(CONFIG_FILE)):
            raise CheckpointError(
                f"{name!r} of {str(folder)!r} is {left_out[name]}, which is not copied; put a copy there"
            )
    return copied, left_out


def _why_folder_left_out(folder: Path) -> str | None:
    if folder.name in FOLDERS_LEFT_OUT:
        return "bookkeeping of a download"
    return "a link to a folder" if folder.is_symlink() else None


def _why_file_left_out(path: Path) -> str | None:
    if not path.is_file():
        return "neither a file nor a link to one"
    if path.name == VOICES:
        return None
    return next((reason for pattern, reason in LEFT_OUT if fnmatch(path.name.lower(), pattern)), None)


def stays_inside(folder: Path, path: Path) -> bool:
    """Return whether a file lies in the model folder, through links too; in the hub's cache they lead to its blobs."""
    home, file = folder.resolve(), path.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    return any(file.is_relative_to(place) for place in homes)

"""The local folder of a model that the user gives as a folder or a hub id."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from unipruning_core.errors import CheckpointError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.storage.layout import CONFIG_FILE, VOICES, check_layout
from unipruning_core.storage.paths import path_errors_as

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "tokenizer*", VOICES]
CODE = ["*.py"]
# the same weights again, in another layout
NOT_WANTED = ["*/*.safetensors", "consolidated*.safetensors"]
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
# a branch, a tag or a commit; it names files in the cache, so it must not lead elsewhere
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]*", re.ASCII)


def resolve_model(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Path:
    """Return a local folder as it is, or else the hub's snapshot of that name and revision, downloaded once.

    Raises:
        CheckpointError: there is no such folder, no such name or revision, no way to reach the hub, or a revision of a
            local folder.
    """
    check_revision([model], revision)
    folder = local_folder(model)
    patterns = [*PATTERNS, *CODE] if trust_remote_code else PATTERNS
    return _download(model, patterns, revision) if folder is None else folder


def resolve_config(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Path:
    """Return the snapshot of a model on the hub with its config, and its code, alone; raises as ``resolve_model``."""
    return _download(model, [CONFIG_FILE, *CODE] if trust_remote_code else [CONFIG_FILE], revision)


def check_model(model: str) -> None:
    """Refuse a name that is neither a model folder nor may be on the hub, without loading or asking anything.

    Raises:
        CheckpointError: it is misspelt, or the folder is not a model.
    """
    if (folder := local_folder(model)) is not None:
        check_layout(folder)


def check_revision(models: Sequence[str], revision: str | None) -> None:
    """Refuse a revision that is none, or that is not of exactly one model on the hub.

    Raises:
        CheckpointError: it is misspelt, or the models are local folders, or several of them are on the hub.
    """
    if revision is None:
        return
    on_hub = [model for model in models if local_folder(model) is None]
    check_pinned(models[0], revision, on_hub=bool(on_hub))
    if len(on_hub) > 1:
        raise CheckpointError(
            f"--revision {revision!r} is for one model, and {on_hub[0]!r} and {on_hub[1]!r} are both on the hub; run "
            "the command once for each"
        )


def check_pinned(model: str, revision: str, *, on_hub: bool) -> None:
    """Refuse a revision that is misspelt, or of a model that is not on the hub.

    Raises:
        CheckpointError: it is.
    """
    if not REVISION.fullmatch(revision):
        raise CheckpointError(f"--revision must be a branch, a tag or a commit on the hub, not {revision!r}")
    if not on_hub:
        raise CheckpointError(
            f"--revision {revision!r} is for a model on the hub, and {model!r} is not read from there; leave it out"
        )


def check_tokenizer(tokenizer: str) -> None:
    """Refuse a name that is neither a folder nor may be on the hub, without loading or asking anything.

    Raises:
        CheckpointError: it is misspelt.
    """
    local_folder(tokenizer, "tokenizer")


def local_folder(model: str, what: str = "model") -> Path | None:
    """Return the folder of that name, or None for what may be a hub id.

    Raises:
        CheckpointError: it can be neither.
    """
    # not pathlib, which takes "" for the current folder and raises an exception for "~nobody"
    folder = os.path.expanduser(model)
    if (mode := mode_of(folder, f"{what} {model!r}")) is not None:
        if stat.S_ISDIR(mode):
            return Path(folder)
        raise CheckpointError(f"{what} {model!r} is a file; pass the folder that holds it")
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"{what} {model!r} does not exist; pass a folder, or a hub id such as 'owner/name'")
    return None


def mode_of(path: str, what: str) -> int | None:
    """Return a path's kind and permissions, as ``os.stat`` does, or None if there is nothing.

    Raises:
        CheckpointError: that cannot be known.
    """
    with path_errors_as(CheckpointError, what):
        try:
            return os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def _download(model: str, patterns: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    # what is not refused by name: errors of the network or the disk, and names that the hub refuses
    with library_errors_as(CheckpointError, f"model {model!r} cannot be downloaded", "try again, or pass a folder"):
        try:
            return Path(
                snapshot_download(model, revision=revision, allow_patterns=list(patterns), ignore_patterns=NOT_WANTED),
            )
        except hub.GatedRepoError as error:
            raise CheckpointError(
                f"model {model!r} is gated on the hub; accept its terms there, then run 'hf auth login'"
            ) from error
        except hub.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"model {model!r} is neither a local folder nor a public model on the hub; "
                "check the spelling, or log in"
            ) from error
        except hub.RevisionNotFoundError as error:
            raise CheckpointError(
                f"model {model!r} has no revision {revision!r} on the hub; check the spelling"
            ) from error
        except hub.LocalEntryNotFoundError as error:
            raise CheckpointError(
                f"model {model!r} is neither a local folder nor in the cache, and the hub cannot be reached; "
                "go online once, or pass a folder"
            ) from error

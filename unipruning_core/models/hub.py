"""From what the user calls a model, a folder or a Hugging Face name, to a local folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from unipruning_core.errors import CheckpointError

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "tokenizer*"]
# the same weights a second time, in another layout
NOT_WANTED = ["*/*.safetensors", "consolidated*.safetensors"]


def resolve_model(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Path:
    """A local folder as it is, else the snapshot of that name from the Hugging Face hub, downloaded once.

    Raises:
        CheckpointError: there is no such folder, no such name, or no way to reach the hub.
    """
    # not pathlib: to it an empty text is the current folder, and "~nobody" an exception
    folder = os.path.expanduser(model)
    if os.path.isdir(folder):
        return Path(folder)
    if os.path.exists(folder):
        raise CheckpointError(f"model {model!r} is a file; give the folder it lies in")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model, flags=re.ASCII):
        raise CheckpointError(f"model {model!r} does not exist; give a folder, or a hub name such as 'owner/name'")
    return _download(model, trust_remote_code, revision)


def _download(model: str, trust_remote_code: bool, revision: str | None) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    patterns = [*PATTERNS, "*.py"] if trust_remote_code else PATTERNS
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=NOT_WANTED),
        )
    except hub.GatedRepoError as error:
        raise CheckpointError(
            f"model {model!r} is gated on the hub; accept its terms there, then run 'hf auth login'"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"model {model!r} is neither a folder here nor a public name on the hub; check the spelling, or log in"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise CheckpointError(f"model {model!r} has no revision {revision!r} on the hub; check the spelling") from error
    except hub.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"model {model!r} is neither a folder here nor in the cache, and the hub cannot be reached;"
            " go online once, or give a folder"
        ) from error
    # what is left of the network and the disk, and names the hub refuses
    except (OSError, hub.HFValidationError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"model {model!r} cannot be downloaded: {reason}; try again, or give a folder") from error

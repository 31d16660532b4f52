"""Where code that comes with a model is taken from, once it is trusted: the author's, and nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

from unipruning_core.storage.layout import revision_of
from unipruning_core.storage.private import check_private

REMEDY = "set HF_HOME to a folder of your own"


def check_code_caches(model: str | os.PathLike[str]) -> None:
    """Refuse caches that other users could have put code into, between a model's author and this process.

    They are that of transformers, which copies the code and imports the copy, and that of the hub, unless ``model`` is
    a folder elsewhere.

    Raises:
        ConfigError: one is another user's, or everybody can write to it.
    """
    from transformers import dynamic_module_utils

    modules = Path(dynamic_module_utils.HF_MODULES_CACHE)
    for place in (modules, *(path for path in modules.glob("transformers_modules/**") if path.is_dir())):
        check_private(place, "the cache of models' code", REMEDY)
    if (repository := _repository(Path(model))) is not None:
        for pattern in ("", "blobs", "snapshots", "snapshots/*", "snapshots/*/*.py"):
            for place in repository.glob(pattern) if pattern else [repository]:
                check_private(place, "the hub's cache", REMEDY)


def _repository(model: Path) -> Path | None:
    """Return the folder of a model in the hub's cache, by one of its snapshots or by its id."""
    if revision_of(model) is not None:
        return model.absolute().parent.parent
    if os.path.exists(model):
        return None
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(("models", *model.parts)))

"""Where code that comes with a model is taken from, once it is trusted: the author's, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError
from unipruning_core.models.borders import TRUST
from unipruning_core.storage.layout import revision_of
from unipruning_core.storage.private import check_private

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# where a config may name an implementation, which is code on the hub if its name has an owner
IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")
REMEDY = "set HF_HOME to a folder of your own"


def check_code_caches(folder: Path) -> None:
    """Refuse caches that other users could have put code into, between a model's author and this process.

    They are that of transformers, which copies the code and imports the copy, and that of the hub if the folder is
    there.

    Raises:
        ConfigError: one is another user's, or everybody can write to it.
    """
    from transformers import dynamic_module_utils

    modules = Path(dynamic_module_utils.HF_MODULES_CACHE)
    for place in (modules, *(path for path in modules.glob("transformers_modules/**") if path.is_dir())):
        check_private(place, "the cache of models' code", REMEDY)
    if revision_of(folder) is not None:
        repository = folder.absolute().parent.parent
        for place in (repository, repository / "blobs", repository / "snapshots", folder, *folder.glob("*.py")):
            check_private(place, "the hub's cache", REMEDY)


def check_implementations(name: str, config: PretrainedConfig) -> None:
    """Refuse a config that names kernels on the hub, which some versions of transformers download and run unasked.

    Raises:
        CheckpointError: it does, or the config of a part does.
    """
    for attribute in IMPLEMENTATIONS:
        implementation = getattr(config, attribute, None)
        if isinstance(implementation, str) and "/" in implementation:
            raise CheckpointError(
                f"the config of model {name!r} asks for the code of {implementation!r} on the hub; {TRUST}, or remove "
                f"{attribute.strip('_')!r} from its config"
            )
    for part in config.sub_configs:
        if (inner := getattr(config, part, None)) is not None:
            check_implementations(name, inner)

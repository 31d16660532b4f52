"""What run.json must say, checked as a whole where a run folder is opened, so that nothing fails or misleads later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.search.choice import own_settings, settings_of
from unipruning_core.search.finished import COMPILED, NOT_COMPILED
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Target, place_of
from unipruning_core.storage.documents import digest_member, is_number, member, quoted
from unipruning_core.storage.layout import COMMIT
from unipruning_core.storage.tensorfile import TensorInfo

FORMAT = "unipruning-run/2"
FORMAT_1 = "unipruning-run/1"  # its settings list the fields of every mode, and it has no scope
DUAL_FILE = "dual.safetensors"
INPUTS_FILE = "inputs.safetensors"
SIZE = "size"  # of the model, in weights
REVISION = "revision"  # commit of a model on the hub
TARGETS = "target_patterns"  # the choice of targets
TRACE = "threshold_trace"  # the threshold at each step of a mode that has one; runs lacked it at first
SCOPES = ("matrix", "row", "global")
LARGEST_THRESHOLD = torch.finfo(torch.float32).max


def checked(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description, of either format, as format 2 has it.

    Raises:
        ValueError: a part is missing, or of a type or value that no search writes.
    """
    settings = _settings(member(description, "settings", dict))
    if description["format"] == FORMAT_1:
        description = {**description, "settings": settings, "scope": MODES[settings["mode"]].scope}
    if (scope := member(description, "scope", str)) not in SCOPES:
        raise ValueError(f"'scope' is {quoted(scope)}")
    # runs of before there was a choice have no such member
    if TARGETS not in description:
        description = {**description, TARGETS: BY_ROLE.to_json()}
    TargetChoice.of_record(member(description, TARGETS, dict))
    if SIZE in description:  # runs of before it was counted have none
        size = member(description, SIZE, dict)
        if not 0 <= member(size, "embeddings", int) < member(size, "weights", int):
            raise ValueError(f"{SIZE!r} is {quoted(size)}")
    model = member(description, "model", dict)
    member(model, "fingerprint", str)
    if REVISION in model and not COMMIT.fullmatch(member(model, REVISION, str)):
        raise ValueError(f"{REVISION!r} is {quoted(model[REVISION])}")
    if member(member(description, "data", dict), "tokens", int) < 0:
        raise ValueError(f"'tokens' is {quoted(description['data']['tokens'])}")
    member(description, "backend", str)
    versions = member(description, "versions", dict)
    for name in versions:
        member(versions, name, str)
    if COMPILED in description and not member(description, COMPILED, bool):
        raise ValueError(f"{COMPILED!r} is {quoted(description[COMPILED])}")
    if NOT_COMPILED in description:
        member(description, NOT_COMPILED, str)
    for name in ("losses", TRACE):
        if name in description and not all(is_number(value) for value in member(description, name, list)):
            raise ValueError(f"{name!r} are not all numbers")
    _check_files(member(description, "files", dict))
    entries = member(description, "targets", list)
    targets = [_target(entry) for entry in entries]
    if not targets:
        raise ValueError("'targets' is empty")
    if len({target.name for target in targets}) < len(targets):
        raise ValueError("'targets' repeats a name")
    if len({"sha256" in entry for entry in entries}) > 1:
        raise ValueError("'targets' has a 'sha256' for some only")
    return description


def check_tensors(tensors: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]], file: str) -> None:
    """Refuse a tensor file that does not hold exactly these float32 tensors, in this order.

    Raises:
        ValueError: it does not.
    """
    if lacking := [name for name in shapes if name not in tensors]:
        raise ValueError(f"{file} lacks {lacking[0]!r}")
    if list(tensors) != list(shapes):
        raise ValueError(f"{file} holds other tensors than the targets, or in another order")
    for name, info in tensors.items():
        if (info.dtype, info.shape) != (torch.float32, shapes[name]):
            raise ValueError(f"{name!r} in {file} is {info.dtype} of {info.shape}, not float32 of {shapes[name]}")


def _settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under current names, if those that this version knows are valid."""
    if (mode := member(recorded, "mode", str)) not in MODES:
        raise ValueError(f"'mode' is {quoted(mode)}")
    own = own_settings(recorded)
    values = {name: value for name, value in own.items() if name != "mode"}
    try:
        parsed = settings_of(mode, values).to_json()
    except ConfigError as error:
        raise ValueError(f"'settings' are invalid, {error}") from error
    # text of a number is for the command line only
    if wrong := [name for name, value in values.items() if parsed[name] != value]:
        raise ValueError(f"{wrong[0]!r} is {quoted(values[wrong[0]])}")
    return own


def _check_files(files: Mapping[str, Any]) -> None:
    if set(files) not in ({DUAL_FILE}, {DUAL_FILE, INPUTS_FILE}):
        raise ValueError(f"'files' are {quoted(sorted(files))}")
    for name in files:
        digest_member(files, name)


def _target(entry: Any) -> Target:
    name, shape = member(entry, "name", str), member(entry, "shape", list)
    if not _is_shape(shape):
        raise ValueError(f"the shape of {name!r} is {quoted(shape)}")
    if not 0 <= member(entry, "threshold", float) <= LARGEST_THRESHOLD:
        raise ValueError(f"the threshold of {name!r} is {quoted(entry['threshold'])}")
    if member(entry, "steps", int) < 0:
        raise ValueError(f"the steps of {name!r} are {entry['steps']}")
    if "sha256" in entry:
        digest_member(entry, "sha256")
    return Target(name, (shape[0], shape[1]), member(entry, "transposed", bool), *place_of(entry))


def _is_shape(shape: Sequence[Any]) -> bool:
    return len(shape) == 2 and all(type(side) is int and side > 0 for side in shape) and math.prod(shape) < 1 << 61

"""The run folder: V and tau of every target with the settings that produced them, enough for a mask of any sparsity.

``dual.safetensors`` holds V, float32 (out, in), under each weight's name in the checkpoint.  ``inputs.safetensors``
holds n, float32 (in,), in the same way; only ``frozen`` knows it over all samples, so other runs lack the file.
``run.json`` holds tau, the settings, the fingerprints of model and text, versions and the checksums.  It is written
last, so a folder that has it is complete.  The same search gives the same bytes: no file records time, host or path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError, RunError
from unipruning_core.search.choice import own_settings
from unipruning_core.search.modes import MODES
from unipruning_core.storage.checkpoint import Target
from unipruning_core.storage.files import sha256, write_json
from unipruning_core.storage.tensorfile import TensorInfo, read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.base import Outcome
    from unipruning_core.sparsity.forms import Scope

FORMAT = "unipruning-run/2"
FORMAT_1 = "unipruning-run/1"  # its settings list the fields of every mode, and it has no scope
TENSORS_FORMAT = "unipruning-run/1"  # of the tensor files, which have not changed since
RUN_FILE = "run.json"
DUAL_FILE = "dual.safetensors"
INPUTS_FILE = "inputs.safetensors"


def write_run(
    folder: Path, targets: Sequence[Target], outcomes: Iterable[Outcome], description: dict[str, Any]
) -> None:
    """Write a run folder's files; ``outcomes`` come in the order of ``targets`` and are consumed one at a time."""
    entries = []
    norms: list[Tensor] = []

    def duals() -> Iterator[Tensor]:
        for outcome in outcomes:
            yield outcome.dual
            if outcome.input_norm is not None:
                norms.append(outcome.input_norm.cpu())
            target = outcome.target
            entries.append(
                {
                    "name": target.name,
                    "shape": list(target.shape),
                    "transposed": target.transposed,
                    "threshold": float(outcome.threshold),
                    "steps": outcome.steps,
                }
            )

    files = {DUAL_FILE: _write(folder / DUAL_FILE, {target.name: target.shape for target in targets}, duals())}
    if len(norms) == len(targets):
        inputs = {target.name: (target.shape[1],) for target in targets}
        files[INPUTS_FILE] = _write(folder / INPUTS_FILE, inputs, norms)
    content = {"format": FORMAT, **description, "files": files, "targets": entries}
    write_json(folder / RUN_FILE, {**content, "checksum": _checksum(content)})


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor]) -> str:
    """Write float32 tensors, one at a time, under a temporary name; return the checksum."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    contents = {name: (torch.float32, shape) for name, shape in shapes.items()}
    try:
        with TensorStream(partial, contents, {"format": TENSORS_FORMAT}) as stream:
            for tensor in tensors:
                stream.append(tensor)
    # with a partial file in it, the next search would refuse the folder
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    return stream.sha256


@dataclass(frozen=True)
class Run:
    """A finished search, read back."""

    folder: Path
    description: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Run:
        """Read and verify a run folder, checksum included.

        Raises:
            RunError: the folder is not a run folder, is unfinished, has another format, or is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(
                f"run folder {str(folder)!r} does not exist; make it with 'unipruning search MODEL --out RUN'"
            )
        if not (folder / RUN_FILE).is_file():
            raise RunError(
                f"{str(folder)!r} has no {RUN_FILE}, so it is not a run folder or its search has not finished; "
                "repeat the 'unipruning search' command, which resumes where it stopped"
            )
        try:
            description = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
            written = description.pop("checksum")
            if (version := description["format"]) not in (FORMAT, FORMAT_1):
                raise RunError(f"{str(folder)!r} is of format {version!r}, not {FORMAT!r}; search again")
            _compare(folder / RUN_FILE, _checksum(description), written)
            for name, written in description["files"].items():
                _compare(folder / name, sha256(folder / name), written)
            if version == FORMAT_1:
                description["settings"] = own_settings(description["settings"])
                description["scope"] = MODES[description["settings"]["mode"]].scope
            run = cls(folder, description, read_header(folder / DUAL_FILE)[0])
            missing = [target.name for target in run.targets if target.name not in run.tensors]
        except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
            raise RunError(f"run folder {str(folder)!r} is damaged ({error}); search again") from error
        if missing or not run.targets:
            lacking = repr(missing[0]) if missing else "every target"
            raise RunError(f"run folder {str(folder)!r} lacks V for {lacking}; search again")
        return run

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The layers that have a Gamma, in checkpoint order."""
        return tuple(
            Target(entry["name"], (entry["shape"][0], entry["shape"][1]), entry["transposed"])
            for entry in self.description["targets"]
        )

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """tau by target."""
        return {entry["name"]: entry["threshold"] for entry in self.description["targets"]}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that was searched."""
        return str(self.description["model"]["fingerprint"])

    @property
    def scope(self) -> Scope:
        """The scope of a bare percentage, which suits the mode of the search."""
        scope: Scope = self.description["scope"]
        return scope

    @property
    def provenance(self) -> dict[str, object]:
        """How the run was made, for the files derived from it."""
        return {key: self.description[key] for key in ("settings", "model", "data", "backend", "versions")}

    @cached_property
    def input_norms(self) -> dict[str, Tensor]:
        """n, the root mean square of each input feature over all samples, (in,) float32 on the host, by target.

        Raises:
            RunError: the search did not record them.
        """
        if INPUTS_FILE not in self.description["files"]:
            raise RunError(
                f"run folder {str(self.folder)!r} holds no input norms; search with '--mode frozen' and a metric that"
                " uses inputs, such as wanda"
            )
        norms = {name: read_tensor(info) for name, info in read_header(self.folder / INPUTS_FILE)[0].items()}
        for target in self.targets:
            if target.name not in norms or norms[target.name].shape != (target.shape[1],):
                raise RunError(
                    f"run folder {str(self.folder)!r} lacks the input norms of {target.name!r}; search again"
                )
        return norms

    def score(self, name: str) -> Tensor:
        """Return abs(Gamma) = max(abs(V) - tau, 0) of one target, (out, in) float32 on the host."""
        return read_tensor(self.tensors[name]).abs_().sub_(self.thresholds[name]).clamp_min_(0.0)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _compare(path: Path, actual: str, written: str) -> None:
    if actual != written:
        raise RunError(
            f"{str(path)!r} is damaged: its checksum is {actual[:12]}… instead of {written[:12]}…; "
            "restore it from a copy, or search again"
        )

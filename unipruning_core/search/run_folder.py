"""The run folder: V and tau of every target with the settings that produced them, enough for a mask of any sparsity.

``dual.safetensors`` holds V, float32 (out, in), under each weight's name in the checkpoint.  ``inputs.safetensors``
holds n, float32 (in,), in the same way; only ``frozen`` knows it over all samples, so other runs lack the file.
``run.json`` holds tau, the settings, the fingerprints of model and text, the sha256 of each target's weight as it was
searched, versions and the checksums.  It is written last, so a folder that has it is complete.  The same search gives
the same bytes: no file records time, host or path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError, RunError, reason_and_remedy
from unipruning_core.frames import Tabular
from unipruning_core.models.choice import TargetChoice
from unipruning_core.search.finished import COMPILED, NOT_COMPILED, RUN_FILE, check_finished
from unipruning_core.search.run_document import (
    DUAL_FILE,
    FORMAT,
    FORMAT_1,
    INPUTS_FILE,
    SIZE,
    TARGETS,
    check_tensors,
    checked,
)
from unipruning_core.storage.checkpoint import Target, place_of
from unipruning_core.storage.documents import quoted, read_object, sealed, unsealed
from unipruning_core.storage.files import sha256, write_json
from unipruning_core.storage.tensorfile import TensorInfo, read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from threading import Event

    from torch import Tensor

    from unipruning_core.search.base import Outcome
    from unipruning_core.sparsity.forms import Scope

TENSORS_FORMAT = "unipruning-run/1"  # of the tensor files, which have not changed since
PIECE = 1 << 17  # weights that stay in the caches from one operation to the next


def write_run(
    folder: Path,
    targets: Sequence[Target],
    outcomes: Iterable[Outcome],  # in the order of the targets, consumed one at a time
    description: dict[str, Any],
    digests: Mapping[str, str] | None = None,  # sha256 of each target's weight as stored, if known
) -> None:
    """Write a run folder's files."""
    entries: list[dict[str, Any]] = []
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
                    **target.place,
                    "threshold": float(outcome.threshold),
                    "steps": outcome.steps,
                    **({"sha256": digests[target.name]} if digests else {}),
                }
            )

    files = {DUAL_FILE: _write(folder / DUAL_FILE, {target.name: target.shape for target in targets}, duals())}
    if len(norms) == len(targets):
        inputs = {target.name: (target.shape[1],) for target in targets}
        files[INPUTS_FILE] = _write(folder / INPUTS_FILE, inputs, norms)
    content = {"format": FORMAT, **description, "files": files, "targets": entries}
    write_json(folder / RUN_FILE, sealed(content))


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
class Run(Tabular):
    """A finished search, read back."""

    folder: Path
    description: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @classmethod
    def open(cls, folder: str | PathLike[str], *, compare: bool = True) -> Run:
        """Read and verify a run folder; checksums too, unless the caller does that later.

        Raises:
            RunError: the folder is not a run folder, is unfinished, has another format, or is damaged.
        """
        folder = Path(folder)
        check_finished(folder)
        description = read_description(folder)
        if compare:
            cls(folder, description, {}).compare()
        with _faults_as_run_errors(folder):
            run = cls(folder, description, read_header(folder / DUAL_FILE)[0])
            check_tensors(run.tensors, {target.name: target.shape for target in run.targets}, DUAL_FILE)
            if INPUTS_FILE in description["files"]:
                check_tensors(run._input_tensors, run._input_shapes, INPUTS_FILE)
        return run

    def compare(self, stop: Event | None = None) -> None:
        """Compare the tensor files with their checksums, until the event is set.

        Raises:
            RunError: they differ.
        """
        with _faults_as_run_errors(self.folder):
            for name, written in self.description["files"].items():
                actual = sha256(self.folder / name, stop)
                if not (stop and stop.is_set()):
                    _compare(self.folder / name, actual, written)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The layers that have a Gamma, in checkpoint order."""
        return tuple(
            Target(entry["name"], (entry["shape"][0], entry["shape"][1]), entry["transposed"], *place_of(entry))
            for entry in self.description["targets"]
        )

    def records(self) -> list[dict[str, Any]]:
        steps = [entry["steps"] for entry in self.description["targets"]]
        return [
            {**target.cells, "threshold": self.thresholds[target.name], "steps": taken}
            for target, taken in zip(self.targets, steps, strict=True)
        ]

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """tau by target."""
        return {entry["name"]: entry["threshold"] for entry in self.description["targets"]}

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of the searched weight by target, as the checkpoint stores it; empty if it is not known."""
        return {entry["name"]: entry["sha256"] for entry in self.description["targets"] if "sha256" in entry}

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
    def target_choice(self) -> TargetChoice:
        """What the user asked to prune."""
        return TargetChoice.of_record(self.description[TARGETS])

    @property
    def model_weights(self) -> int | None:
        """The weights of the whole model, if the search counted them."""
        return self.description[SIZE]["weights"] if SIZE in self.description else None

    @property
    def provenance(self) -> dict[str, object]:
        """How the run was made, for the files derived from it."""
        keys = ("settings", "model", "data", "backend", COMPILED, NOT_COMPILED, "versions", TARGETS)
        return {key: self.description[key] for key in keys if key in self.description}

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
        norms = {name: read_tensor(info) for name, info in self._input_tensors.items()}
        if wrong := [name for name, norm in norms.items() if not bool((norm.isfinite() & (norm >= 0)).all())]:
            raise RunError(f"run folder {str(self.folder)!r} has no valid input norms of {wrong[0]!r}; search again")
        return norms

    @property
    def _input_tensors(self) -> dict[str, TensorInfo]:
        return read_header(self.folder / INPUTS_FILE)[0]

    @property
    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {target.name: (target.shape[1],) for target in self.targets}

    def score(self, name: str) -> Tensor:
        """Return abs(Gamma) = max(abs(V) - tau, 0) of one target, (out, in) float32 on the host."""
        score = read_tensor(self.tensors[name])
        for piece in score.view(-1).split(PIECE):
            piece.abs_().sub_(self.thresholds[name]).clamp_min_(0.0)
        return score


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check run.json alone, without the tensors.

    Raises:
        RunError: it cannot be read, has another format, or is damaged.
    """
    with _faults_as_run_errors(folder):
        description = read_object(folder / RUN_FILE)
        if (version := description.get("format")) not in (FORMAT, FORMAT_1):
            raise RunError(f"{str(folder)!r} is of format {quoted(version)}, not {FORMAT!r}; search again")
        return checked(unsealed(description))


@contextmanager
def _faults_as_run_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_and_remedy(error, "check the folder", folder)
        raise RunError(f"run folder {str(folder)!r} cannot be read: {reason}") from error
    except (ValueError, CheckpointError) as error:
        raise RunError(f"run folder {str(folder)!r} is damaged ({error}); search again") from error


def _compare(path: Path, actual: str, written: str) -> None:
    if actual != written:
        raise RunError(
            f"{str(path)!r} is damaged: its checksum is {actual[:12]}… instead of {written[:12]}…; "
            "restore it from a copy, or search again"
        )

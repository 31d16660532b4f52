"""Saved states of an unfinished search, in its run folder, so that a killed process loses minutes, not hours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import CheckpointError, RunError
from unipruning_core.storage.files import sync, write_json
from unipruning_core.storage.tensorfile import read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

STATE_FILE = "state.json"
TENSOR_FILE = "state.safetensors"


class Resume:
    """The saved states of one run folder: ``resume-<sample>`` folders, of which the newest counts.

    A state is completed under a temporary name before it gets its own, and only then is the previous one removed, so
    one of the two can be read at every moment.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity

    def save(self, sample: int, tensors: dict[str, Tensor], losses: list[float]) -> None:
        """Save the state after ``sample`` samples."""
        older = self._states()
        partial = self.folder / "resume.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        contents = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        with TensorStream(partial / TENSOR_FILE, contents, {}) as stream:
            for tensor in tensors.values():
                stream.append(tensor)
        write_json(partial / STATE_FILE, {"sample": sample, "losses": losses, "identity": self.identity})
        partial.replace(self.folder / f"resume-{sample:08d}")
        sync(self.folder)
        for state in older:
            shutil.rmtree(state)

    def found(self) -> dict[str, Any] | None:
        """Return the newest saved state's description, or None if there is none.

        Raises:
            RunError: the state belongs to a search with other settings, model, text or versions.
        """
        states = self._states()
        if not states:
            return None
        try:
            description: dict[str, Any] = json.loads((states[-1] / STATE_FILE).read_text(encoding="utf-8"))
            recorded = description["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"the saved state {str(states[-1])!r} is damaged ({error}); start again with --overwrite"
            ) from error
        for key in self.identity.keys() | recorded.keys():
            expected, found = self.identity.get(key), recorded.get(key)
            if found != expected:
                raise RunError(
                    f"{str(self.folder)!r} holds an unfinished search that differs in its {key} ({found!r}, "
                    f"not {expected!r}); repeat the command it was started with, choose another --out, or discard it "
                    "with --overwrite"
                )
        return description

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy the newest state into ``tensors``, in place.

        Raises:
            RunError: the state does not hold these tensors.
        """
        try:
            saved = read_header(self._states()[-1] / TENSOR_FILE)[0]
            for name, tensor in tensors.items():
                tensor.copy_(read_tensor(saved[name]))
        except (CheckpointError, KeyError, RuntimeError) as error:
            raise RunError(
                f"the saved state in {str(self.folder)!r} is damaged ({error}); start again with --overwrite"
            ) from error

    def discard(self) -> None:
        """Remove every saved state."""
        for state in [*self._states(), self.folder / "resume.partial"]:
            shutil.rmtree(state, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("resume-" + "[0-9]" * 8))

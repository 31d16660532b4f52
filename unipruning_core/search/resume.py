"""Saved states of an unfinished search, in ``RUN/unfinished``, so that a killed process loses minutes, not hours."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.distributed.world import ALONE, World
from unipruning_core.errors import CheckpointError, OutputError, RunError
from unipruning_core.search.parts import Part, check_pieces, pieces_in, read_into, write_parts
from unipruning_core.storage.documents import digest_member, member, quoted, read_object, sealed, unsealed
from unipruning_core.storage.files import sha256, sync, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.progress import Progress

FORMAT = "unipruning-state/2"
KEPT = 2  # states, once there are as many
STATES = r"resume-[0-9]{8}"
PARTIAL = "resume.partial"
OFFLOADED = "offloaded"  # folders of what a search in this process keeps in files, one a rank
STATE_FILE = "state.json"
TENSOR_FILE = "state.safetensors"
TENSOR_FILES = r"state(-[0-9]{5}-of-[0-9]{5})?\.safetensors"  # those that a description may name


class Resume:
    """The saved states in one folder: ``resume-<sample>`` folders, of which the newest whole one counts.

    A state is completed under a temporary name before it gets its own, and only then are older ones removed, but for
    the last: once there have been two, two can be read at every moment.  Its description lists its tensor files, of
    which there may be several, with their checksums, and holds its own.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], world: World = ALONE) -> None:
        self.folder, self.identity, self.world = folder, identity, world
        self.notes: list[str] = []  # for the user: states that ``found`` passed over
        self._found: list[Path] = []  # the tensor files of the state that ``found`` returned
        self._damaged: set[Path] = set()  # states that ``found`` passed over

    def save(
        self,
        sample: int,
        tensors: Mapping[str, Tensor],
        losses: list[float],
        parts: Mapping[str, Part] = {},  # of the tensors that are divided among the ranks
    ) -> None:
        """Save the state after ``sample`` samples, together with the other ranks.

        Raises:
            OSError: it cannot be written here.  OutputError: it cannot on another rank.
        """
        partial, world = self.folder / PARTIAL, self.world
        name = TENSOR_FILE if world.size == 1 else f"state-{world.rank:05d}-of-{world.shards:05d}.safetensors"
        # of several copies of the model the first saves its parts, and the first rank what all have
        mine = {key: tensor for key, tensor in tensors.items() if world.leads or key in parts}
        files: dict[str, str] = {}

        def prepare() -> None:
            if world.leads:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()

        def write() -> None:
            if world.rank < world.shards:
                files[name] = write_parts(partial / name, mine, parts)

        def complete() -> None:
            if world.leads:
                self._complete(sample, losses, files)

        try:
            world.all_do(prepare)
            world.all_do(write)
            for of_rank in world.each(dict(files)):
                files |= of_rank
            world.all_do(complete)
        # half a state on a full disk takes the room that the next one needs
        except (OSError, OutputError):
            if world.leads:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _complete(self, sample: int, losses: list[float], files: Mapping[str, str]) -> None:
        """Describe the state whose files are written, with their checksums, give it its name, and keep one other."""
        partial, state = self.folder / PARTIAL, self.folder / f"resume-{sample:08d}"
        description = {"format": FORMAT, "sample": sample, "losses": losses, "identity": self.identity}
        write_json(partial / STATE_FILE, sealed({**description, "files": dict(files)}))
        # one of this sample was found damaged
        if state.exists():
            shutil.rmtree(state)
            self._damaged.discard(state)
        partial.replace(state)
        sync(self.folder)
        # one of a later sample would have been gone on from, had it been whole
        whole = [path for path in self._states() if path < state and path not in self._damaged]
        for path in self._states():
            if path not in (state, *whole[1 - KEPT :]):
                # what cannot be removed now is removed after the next save
                shutil.rmtree(path, ignore_errors=True)

    def last_sample(self) -> int | None:
        """Return the number of samples in the newest saved state, or None if there is none."""
        states = self._states()
        return int(states[-1].name.rpartition("-")[2]) if states else None

    def found(self, samples: int | None = None) -> dict[str, Any] | None:
        """Return the description of the newest whole state, or None if nothing was saved; one rank looks for all.

        Args:
            samples: of the whole search, if known: no state is of more.

        Raises:
            RunError: every state is damaged, or it belongs to a search with other settings, model, text or versions.
        """

        def look() -> tuple[dict[str, Any] | None, list[Path], list[str]]:
            return self._newest(samples), self._found, self.notes

        found, self._found, self.notes = self.world.lead_does(look)
        return found

    def _newest(self, samples: int | None) -> dict[str, Any] | None:
        faults = []
        for state in reversed(self._states()):
            try:
                description = _whole(state, samples)
            except (OSError, ValueError) as error:
                faults.append(f"{str(state)!r} is damaged ({error})")
                self._damaged.add(state)
                continue
            self._refuse_another(description["identity"])
            self._found = [state / name for name in sorted(description["files"])]
            self.notes += [f"{fault}; going on from an older one" for fault in faults]
            return description
        if faults:
            raise RunError(f"the saved state {faults[0]}; start again with --overwrite")
        return None

    def _refuse_another(self, recorded: dict[str, Any]) -> None:
        for key in self.identity.keys() | recorded.keys():
            expected, found = self.identity.get(key), recorded.get(key)
            if found != expected:
                raise RunError(
                    f"{str(self.folder)!r} holds an unfinished search that differs in its {key} ({found!r}, "
                    f"not {expected!r}); repeat the command it was started with, choose another --out, or discard it "
                    "with --overwrite"
                )

    def restore(self, tensors: Mapping[str, Tensor], parts: Mapping[str, Part] = {}) -> None:
        """Copy the state that ``found`` found into ``tensors``, in place: of those in ``parts`` what is held here.

        The ranks need not be as many as those that saved it.

        Raises:
            RunError: the state does not hold exactly these tensors, with their dtypes and shapes.
        """
        try:
            saved = pieces_in(self._found)
            if unknown := saved.keys() - tensors.keys():
                raise ValueError(f"{min(unknown)!r} is part of it, not of the search")
            for name, tensor in tensors.items():
                check_pieces(name, saved.get(name), tensor, parts.get(name))
            for name, tensor in tensors.items():
                read_into(tensor, saved[name], parts.get(name))
        except (CheckpointError, ValueError) as error:
            raise RunError(
                f"the saved state {str(self._found[0].parent)!r} is damaged ({error}); start again with --overwrite"
            ) from error

    def discard_others(self, samples: int, progress: Progress) -> None:
        """Remove the saved states, unless one is whole and of this search, which has so many samples."""
        try:
            self.found(samples)
        except RunError as error:
            progress.note(f"starting over: {error}")
            for state in self._states() if self.world.leads else ():
                shutil.rmtree(state)
        self.world.from_lead(None)  # none looks again before they are gone

    def _states(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("resume-*") if re.fullmatch(STATES, path.name))


def _whole(state: Path, samples: int | None) -> dict[str, Any]:
    """Return the description of a state that is as it was saved; raise OSError or ValueError for any other."""
    description = unsealed(read_object(state / STATE_FILE))
    if (version := description.get("format")) != FORMAT:
        raise ValueError(f"its format is {quoted(version)}, not {FORMAT!r}")
    sample, losses = member(description, "sample", int), member(description, "losses", list)
    if not 0 < sample <= (sample if samples is None else samples):
        raise ValueError(f"it is of {sample} samples, but the search has {samples}")
    if len(losses) > sample or not all(type(loss) is float and math.isfinite(loss) for loss in losses):
        raise ValueError("its losses are not one finite number a sample")
    member(description, "identity", dict)
    files = member(description, "files", dict)
    if not files or not all(re.fullmatch(TENSOR_FILES, name) for name in files):
        raise ValueError(f"its files are {quoted(list(files))}")
    for name in files:
        if sha256(state / name) != digest_member(files, name):
            raise ValueError(f"{name} is not what was saved")
    return description

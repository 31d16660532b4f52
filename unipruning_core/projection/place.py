"""The output folder of a projection: looked at before any work, and held by one command at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError, OutputError
from unipruning_core.progress import Progress
from unipruning_core.projection.card import BASE_CARD_FILE, CARD_FILE, has_own_words
from unipruning_core.projection.mask_file import EARLIER_MASK_FILE, MASK_FILE
from unipruning_core.projection.report import REPORT_FILE, found_report
from unipruning_core.sparsity.parse import Sparsity, check_distinct
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.outputs import check_apart, check_space, errors_as_output_errors, listed
from unipruning_core.storage.ownership import BOOKKEEPING, is_ours
from unipruning_core.storage.staging import UNFINISHED, Work, working

if TYPE_CHECKING:
    from unipruning_core.distributed.world import World

# without them nothing loads the folder, or takes it for ours, so they come last
LAST = ("config.json", REPORT_FILE)
CARDS = (CARD_FILE, BASE_CARD_FILE)


@dataclass(frozen=True)
class Output:
    """An output folder that this command holds, and what it replaces there."""

    folder: Path
    work: Work
    old: tuple[str, ...]  # files below the folder
    must_match: tuple[Path, ...]  # checkpoints that a killed command may have left; any other is not to be replaced

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Yield an empty folder, which takes its place at the end.

        Raises:
            OutputError: the disk is full, or the folder cannot be written for another reason.
        """
        with errors_as_output_errors(self.folder):
            folder = self.work.start()
        with disk_errors_as_output_errors(self.folder):
            yield folder
        with errors_as_output_errors(self.folder):
            self.work.publish(self.old)

    def check_same(self, about: Sequence[dict[str, object]]) -> None:
        """Refuse to replace a checkpoint that this command did not write; ``about`` are parts of reports.

        Raises:
            OutputError: one differs, or nobody asked to replace it.
        """
        for folder in self.must_match:
            report = found_report(folder) or {}
            if not any(report.items() >= json.loads(json.dumps(part)).items() for part in about):
                raise _not_empty(self.folder)


@contextmanager
def disk_errors_as_output_errors(out: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence, and nothing else."""
    try:
        yield
    except OSError as error:
        with errors_as_output_errors(out):
            raise error


@contextmanager
def filled_by_all(place: Output | None, world: World) -> Iterator[tuple[Path, Path]]:
    """Yield the empty folder that all ranks fill, and the output that it becomes; the first rank alone has a place.

    Raises:
        OutputError: as ``Output.filling``.
    """
    with world.lead_holds(lambda: _of_lead(place).filling()) as filled:
        folder, out = world.from_lead((filled or Path(), place.folder if place else Path()))
        with nullcontext() if world.leads else disk_errors_as_output_errors(out):
            yield folder, out
    world.from_lead(None)  # all wait for the result to be there


def _of_lead(place: Output | None) -> Output:
    if place is None:
        raise ValueError("only the first rank has an output")
    return place


@contextmanager
def claimed_output(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    sparsities: Sequence[Sparsity],
    out: Path,
    *,
    overwrite: bool,
    progress: Progress,
    apart: Iterable[tuple[str, Path]] = (),  # what else is read, by what it is
) -> Iterator[Output]:
    """Look at an output folder, remove what a killed command left there, and hold it.

    Raises:
        ConfigError: a sparsity occurs twice.
        OutputError: the output is in use, overlaps what is read, holds something else, or does not fit on its disk.
    """
    check_distinct(sparsities)
    files, _ = files_of(checkpoint)
    with ExitStack() as stack:
        with errors_as_output_errors(out):
            out = out.resolve()
            check_apart(out, "model", [checkpoint.folder, *(checkpoint.folder / path for path in files)])
            for what, path in apart:
                check_apart(out, what, [path])
            if out.exists() and not out.is_dir():
                raise OutputError(f"output {str(out)!r} is a file; choose a folder that does not exist yet")
            own = [MASK_FILE, EARLIER_MASK_FILE, REPORT_FILE, *CARDS]
            expected = [path.as_posix() for path in files] + own
            # before anything is made in it, and again when nobody else can change it
            if not _is_begun(out):
                _look_at(out, slugs_of(sparsities), expected, replace=overwrite)
            work, killed = stack.enter_context(_work_for(out, progress))
            old = _look_at(out, slugs_of(sparsities), expected, replace=overwrite or killed)
            check_room(out, checkpoint, files, targets, len(sparsities))
        must_match = () if overwrite or not old else tuple(out / slug for slug in slugs_of(sparsities))
        yield Output(out, work, tuple(old), must_match)


def discard_checkpoint(folder: Path) -> None:
    """Remove a pruned checkpoint that no command works in, but for what else is in it."""
    names = [Path(name) for name in _written(folder, ())]
    for name in sorted(names, key=lambda name: name == Path(REPORT_FILE)):
        (folder / name).unlink(missing_ok=True)
    for parent in sorted({parent for name in names for parent in name.parents}, reverse=True):
        with suppress(OSError):  # it holds something else
            (folder / parent).rmdir()


def slugs_of(sparsities: Sequence[Sparsity]) -> list[str]:
    """Return the folder of each sparsity below the output."""
    return [""] if len(sparsities) == 1 else [sparsity.slug for sparsity in sparsities]


def files_of(checkpoint: Checkpoint) -> tuple[list[Path], dict[str, str]]:
    """Return the files to copy, shards first, and those left out, with the reason.

    Raises:
        CheckpointError: the config or the index leads outside the folder, or a folder is in the place of the card.
    """
    files, left_out = checkpoint.files_to_copy()
    if cards := [path.parts[0] for path in files if path.parts[0] in CARDS and len(path.parts) > 1]:
        raise CheckpointError(
            f"{str(checkpoint.folder / cards[0])!r} is a folder, where a pruned checkpoint has its card; rename it"
        )
    for path in list(files):
        if path.as_posix() in (MASK_FILE, REPORT_FILE):
            files.remove(path)
            what = "report" if path.name == REPORT_FILE else "masks"
            left_out[path.as_posix()] = f"the {what} of an earlier pruning"
        elif path.name in BOOKKEEPING or (path.parts[0] == UNFINISHED and _is_begun(checkpoint.folder)):
            files.remove(path)
            left_out[path.as_posix()] = "of a command that has not finished"
    return [Path(shard.name) for shard in checkpoint.shards] + files, left_out


def size_of(checkpoint: Checkpoint, files: Iterable[Path]) -> int:
    """Return the bytes of files of a checkpoint."""
    return sum((checkpoint.folder / path).stat().st_size for path in files)


def check_room(out: Path, checkpoint: Checkpoint, files: Iterable[Path], targets: Iterable[Target], count: int) -> None:
    """Refuse an output whose disk has no room for so many pruned checkpoints."""
    check_space(out, count * (size_of(checkpoint, files) + _own_bytes(targets)))


def _own_bytes(targets: Iterable[Target]) -> int:
    """Estimate the mask file, at most one bit per weight, and the report, with room for names and numbers."""
    return 65536 + sum(-(-target.size // 8) + 1024 for target in targets)


@contextmanager
def _work_for(out: Path, progress: Progress) -> Iterator[tuple[Work, bool]]:
    """Hold the folder to work in: beside an output that does not exist yet, else inside it.

    Also yields whether a killed command had worked for this output.
    """
    if not out.name:
        raise OutputError(f"output {str(out)!r} is the whole disk; choose a folder in it")
    beside, killed = out.with_name(f"{out.name}.partial"), False
    with ExitStack() as stack:
        if out.is_dir() and beside.is_dir() and is_ours(beside, "checkpoint"):
            stack.enter_context(working(beside, out, "checkpoint", last=LAST))
            killed = True
        if not out.is_dir():
            work = stack.enter_context(working(beside, out, "checkpoint", last=LAST))
            killed = work.existed
        # what a killed command had only to rename may be there by now
        if out.is_dir():
            work = stack.enter_context(working(out / UNFINISHED, out, "checkpoint", last=LAST))
            killed = killed or work.existed
        if killed:
            progress.note(f"removed what a command that was killed or failed had left of {str(out)!r}")
        yield work, killed


def _is_begun(out: Path) -> bool:
    """Whether a command has begun to make this output, and may have finished it."""
    folders = (out / UNFINISHED, out.with_name(f"{out.name}.partial")) if out.name else ()
    return any(folder.is_dir() and is_ours(folder, "checkpoint") for folder in folders)


def _look_at(out: Path, slugs: list[str], expected: list[str], *, replace: bool) -> list[str]:
    """Return the files below an output that a result replaces, or refuse what cannot be replaced."""
    present = [path for path in sorted(out.iterdir()) if path.name != UNFINISHED] if out.is_dir() else []
    if (out / UNFINISHED).exists() and not is_ours(out / UNFINISHED, "checkpoint"):
        present.append(out / UNFINISHED)
    if not present:
        return []
    if not replace:
        raise _not_empty(out)
    foreign = [path for path in present if path.name not in slugs or found_report(path) is None]
    if slugs == [""]:
        foreign = [] if found_report(out) else [out]
    if foreign:
        held = (found_report(out) or {}).get("sparsity")
        what = f"{str(out)!r} is itself one pruned to {held}" if held else f"{str(foreign[0])!r} is not one"
        raise OutputError(
            f"--overwrite only replaces checkpoints pruned to the same sparsities, and {what}; choose another output"
            " folder"
        )
    old = []
    for slug in slugs:
        folder = out / slug
        written = _written(folder, expected)
        found = [path for path in _files_below(folder) if path.parts[0] != UNFINISHED or slug]
        if strangers := [path.as_posix() for path in found if path.as_posix() not in written]:
            raise OutputError(
                f"{str(folder)!r} holds files that were not written with the checkpoint, or have other words now: "
                f"{listed(strangers)}; move them elsewhere, or choose another output folder"
            )
        old += [(Path(slug) / path).as_posix() for path in found]
    return old


def _written(folder: Path, expected: Iterable[str]) -> set[str]:
    """Return the files of a pruned checkpoint by its report, or ``expected`` for a format that did not list them."""
    report = found_report(folder) or {}
    names = [name for name in report.get("written", expected) if name != CARD_FILE or not has_own_words(folder, report)]
    if EARLIER_MASK_FILE in names:
        names.append(MASK_FILE)  # whoever serves the folder may have renamed it
    return {name for name in names if isinstance(name, str) and not {"", "..", "/"} & {name, *Path(name).parts}}


def _files_below(folder: Path) -> list[Path]:
    """Every file and every empty folder, relative to ``folder``."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root).relative_to(folder)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [here / name for name in [*files, *links]]
        if not folders and not files and here != Path():
            found.append(here)
    return sorted(found)


def _not_empty(out: Path) -> OutputError:
    return OutputError(f"output folder {str(out)!r} is not empty; choose another, or pass --overwrite")

"""The way of a pruned checkpoint to the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.source import Source
from unipruning_core.models.borders import library_errors_as
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.card import CARD_FILE
from unipruning_core.projection.report import REPORT_FILE, read_report
from unipruning_core.sharing.figures import add_figures
from unipruning_core.storage.ownership import BOOKKEEPING

NOT_SENT = (".cache/**", ".git/**", "*.partial", *BOOKKEEPING)
NAMED = (("model", "name"), ("data", "source"))  # what the report says of where it came from
REMEDY = "log in with 'hf auth login', and check the name of the repository and the network"


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be."""

    repository: str
    address: str  # of the commit; "" where nothing was sent
    files: tuple[str, ...]
    size: int  # bytes


def push(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    results: str | os.PathLike[str] | None = None,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    progress: bool | Progress = True,
) -> Pushed:
    """Send a pruned checkpoint to the hub, with its card, masks and report; what is not whole is not sent.

    Args:
        folder: a folder that ``project`` or ``prune`` wrote.
        repository: "owner/name" on the hub, made if it does not exist, or "name" of the user who is logged in.
        results: the results.json of ``evaluate``, whose figures go into the card first.
        private: whether a new repository is private.
        branch: the branch to commit to (default: main).
        message: of the commit (default: what the checkpoint is pruned to).
        dry_run: say what would be sent, without a network.

    Raises:
        CheckpointError: the folder is no pruned checkpoint, is damaged, or has no card.
        ConfigError: the hub refuses it.
    """
    place, shown = Path(folder), as_progress(progress)
    report, source = read_report(place), Source.open(place, shown)
    if not (place / CARD_FILE).is_file():
        raise CheckpointError(f"{str(place)!r} has no {CARD_FILE}, which says what it is; project again, or write one")
    if results is not None:
        add_figures(place, Path(results))
    files = _files(place)
    size = sum((place / name).stat().st_size for name in files)
    provenance = report["provenance"]
    named = [str(provenance[part][key]) for part, key in NAMED if key in provenance.get(part, {})]
    if local := [name for name in named if Path(name).is_absolute()]:
        shown.note(f"{REPORT_FILE} names places of this machine: {', '.join(local)}")
    with shown.task("checking weights", len(source.masks.targets), "matrices") as task:
        for target in source.masks.targets:
            source.stored(target)
            task.advance()
    if dry_run:
        return Pushed(repository, "", files, size)
    from huggingface_hub import HfApi

    shown.note(f"sending {len(files)} files of {place.name!r} to {repository!r}")
    with library_errors_as(ConfigError, f"{repository!r} cannot be written", REMEDY):
        api = HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(made.repo_id, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=place,
            revision=branch,
            commit_message=message or f"Pruned to {report['sparsity']} by unipruning",
            allow_patterns=[escape(name) for name in files],
        )
    return Pushed(made.repo_id, str(commit.commit_url), files, size)


def _files(folder: Path) -> tuple[str, ...]:
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(filter_repo_objects(names, ignore_patterns=list(NOT_SENT)))

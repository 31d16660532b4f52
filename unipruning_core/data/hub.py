"""Data sets on the hub, and those that ``save_to_disk`` wrote."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unipruning_core.data.forms import Form
from unipruning_core.data.sources import hub_name
from unipruning_core.data.tables import Documents, documents_of_rows, documents_of_table
from unipruning_core.errors import DataError, first_line
from unipruning_core.storage.documents import member, quoted, read_object
from unipruning_core.storage.paths import is_plain_name

# of C4's 365 million documents, enough for 1000 windows of 4096 tokens
STREAMED_DOCUMENTS = 10_000


def read_hub(source: str, split: str, column: str | None) -> tuple[Documents, Form]:
    """Return the documents of a data set on the hub, from its cache or downloaded, and what was read of it.

    Raises:
        DataError: it cannot be fetched, or has no such split or column.
    """
    import datasets

    name = hub_name(source)
    split = name.test_split if split == "test" else split
    try:
        with quiet_libraries():
            rows = datasets.load_dataset(name.path, name=name.config, split=split, streaming=name.streaming)
            return _documents(rows.take(STREAMED_DOCUMENTS) if name.streaming else rows, source, column)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        # failures to connect have no number, and those of the hub are about files that it lacks
        if error.errno and not isinstance(error, FileNotFoundError | ConnectionError | TimeoutError):
            raise DataError(
                f"data set {source!r} cannot be kept on this disk: {error.strerror}; free some space there, or set "
                "HF_HOME to a folder that can be written"
            ) from error
        raise DataError(
            f"data set {source!r} cannot be fetched, and no copy of it is cached: {first_line(error)}; "
            "check the name and the connection, or pass a local file"
        ) from error
    # whatever the library raises, what it was asked for is at fault
    except Exception as error:
        raise DataError(
            f"data set {source!r} has no readable split {split!r}: {first_line(error)}; "
            "name a split that it has and, if need be, a configuration: org/name:config"
        ) from error


def read_saved(
    folder: Path, source: str, split: str | None, default: str, column: str | None
) -> tuple[Documents, Form]:
    """Return the documents of a data set that ``save_to_disk`` wrote, and what was read of it.

    Of several splits ``split`` is read, or else ``default``, or else the only one.

    Raises:
        DataError: it cannot be read, or has no such split or column.
    """
    import datasets

    try:
        _check_names(folder)
        with quiet_libraries():
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.DatasetDict):
                saved = saved[_split_of(list(saved), source, split, default)]
            elif split is not None:
                raise DataError(f"--split {split} is for data sets with splits, and {source!r} has none; leave it out")
            return _documents(saved, source, column)
    except (DataError, MemoryError):
        raise
    # whatever the library raises, the folder is at fault
    except Exception as error:
        raise DataError(
            f"{source!r} is not a readable data set: {first_line(error)}; save it again with save_to_disk"
        ) from error


def _check_names(folder: Path) -> None:
    """Refuse a saved data set whose documents name files or splits outside its folder, which would be read."""
    names = [Path()]
    if (listing := folder / "dataset_dict.json").is_file():
        names = _plain(member(read_object(listing), "splits", list))
    for name in names:
        if (state := folder / name / "state.json").is_file():
            files = member(read_object(state), "_data_files", list)
            _plain([member(file, "filename", str) for file in files])


def _plain(names: list[Any]) -> list[Path]:
    if wrong := [name for name in names if not isinstance(name, str) or not is_plain_name(name)]:
        raise ValueError(f"{quoted(wrong[0])} is not a name in the folder")
    return list(map(Path, names))


def _documents(rows: Any, source: str, column: str | None) -> tuple[Documents, Form]:
    if rows.features is None:
        return documents_of_rows(iter(rows), source, column)
    return documents_of_table(rows, rows.features.arrow_schema, source, column)


def _split_of(splits: list[str], source: str, split: str | None, default: str) -> str:
    chosen = split or (default if default in splits else splits[0] if len(splits) == 1 else None)
    if chosen in splits:
        return chosen
    wanted = f"a split {default!r}" if split is None else f"a split {split!r}"
    raise DataError(f"{source!r} should have {wanted}, but has {splits}; name one of them with --split")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the data set libraries' progress bars and advice; the command line has its own."""
    import datasets
    import huggingface_hub.utils as hub

    libraries = (datasets, hub)
    before = [(library.logging.get_verbosity(), library.are_progress_bars_disabled()) for library in libraries]
    for library in libraries:
        library.logging.set_verbosity(logging.CRITICAL)
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library, (verbosity, hidden) in zip(libraries, before, strict=True):
            library.logging.set_verbosity(verbosity)
            if not hidden:
                library.enable_progress_bars()

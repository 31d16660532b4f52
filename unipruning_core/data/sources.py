"""What the name of a text stands for: files, a saved data set, or one on the hub; imports nothing heavy."""

from __future__ import annotations

import glob
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from unipruning_core.errors import ConfigError, DataError, reason_and_remedy

Weights = dict[str, float]  # of texts that are mixed, by name

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# what an ending says of a file; one with any other is plain text
TABLES = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PLAIN = (".txt", ".raw", ".utf8", ".text")
NOTES = (".md",)  # plain text, which in a folder of anything else is about it
NOT_TEXT = {
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xml"), "markup"),
    **dict.fromkeys((".yaml", ".yml", ".toml"), "a file of settings"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "an archive of files"),
    **dict.fromkeys((".arrow", ".feather"), "an Arrow file"),
    **dict.fromkeys(
        (".pdf", ".docx", ".doc", ".odt", ".rtf", ".epub", ".xlsx", ".xls"), "a document of an application"
    ),
    **dict.fromkeys((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npy", ".npz", ".h5"), "a file of tensors"),
    **dict.fromkeys((".pkl", ".pickle", ".db", ".sqlite", ".idx"), "binary"),
}
REMEDIES = {
    "an archive of files": "extract it, and pass a file or the folder",
    "an Arrow file": "pass the folder that save_to_disk wrote, or convert it to parquet",
}
CONVERT = "convert it to plain text, .jsonl, .csv or .parquet"
# endings that tell a missing file from a data set
ENDINGS = (*TABLES, *PLAIN, *NOTES, *COMPRESSED, *NOT_TEXT)
KINDS = ".jsonl, .json, .csv, .tsv, .parquet or text file"
WEIGHTED = re.compile(
    r"(?P<weight>[+-]?(\d+\.?\d*|\.\d+|inf|nan)(e[+-]?\d+)?):(?P<source>.+)", re.IGNORECASE | re.DOTALL
)
NAMED = 3  # files that a message names


@dataclass(frozen=True)
class HubName:
    """A data set on the hub."""

    path: str
    config: str | None
    streaming: bool = False
    test_split: str = "test"


ALIASES = {
    "wikitext2": HubName("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "c4": HubName("allenai/c4", "en", streaming=True, test_split="validation"),
}


@dataclass(frozen=True)
class Local:
    """Files of one kind, in the order in which they are read; or those of a folder that ``save_to_disk`` wrote."""

    files: tuple[Path, ...]
    saved: Path | None = None

    @property
    def kind(self) -> str:
        """ "saved", "text" or a kind of table."""
        return "saved" if self.saved else kind_of(self.files[0])


def kind_of(path: Path) -> str:
    """Return what the ending says of a file that may be compressed: a kind of table, or "text"."""
    return TABLES.get(ending_of(path), "text")


def ending_of(path: Path) -> str:
    """Return what a file's name ends in, in small letters and without the ending of a compression."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[1]


def find_text(source: str) -> Local | None:
    """Return the local files of that name, or None for a data set on the hub; what exists here is never the latter.

    Raises:
        DataError: it is neither, or the files are empty or of a kind that is not read.
    """
    path = Path(os.path.expanduser(source))
    mode, size = _look_at(path, source)
    if stat.S_ISREG(mode):
        return Local((_checked(path, source, size),))
    if stat.S_ISDIR(mode):
        return _folder(path, source)
    if mode:
        raise DataError(f"text {source!r} is not a regular file; save what it gives to one, and pass that")
    if glob.has_magic(source):
        return _of_one_kind([Path(name) for name in glob.glob(str(path), recursive=True)], source)
    if source in ALIASES or _looks_like_hub_name(source):
        return None
    raise DataError(
        f"{source!r} is not a file; pass a {KINDS}, a folder of them, or a data set: {', '.join(ALIASES)}, or "
        "org/name[:config]"
    )


def hub_name(source: str) -> HubName:
    """Return the data set that a name stands for."""
    if source in ALIASES:
        return ALIASES[source]
    path, _, config = source.partition(":")
    c4 = ALIASES["c4"]
    # it is just as large under its full name: 300 GB in English alone
    return replace(c4, config=config or c4.config) if path == c4.path else HubName(path, config or None)


def parse_weighted(words: Iterable[str]) -> str | Weights:
    """Return one plain source, or the weights of several: "A" weighs 1, and "0.7:A" 0.7.

    A file whose whole name is such a word is that file.

    Raises:
        ConfigError: a source is named twice, or a weight is not a positive number.
    """
    weights: Weights = {}
    words = list(words)
    for word in words:
        found = None if os.path.exists(os.path.expanduser(word)) else WEIGHTED.fullmatch(word)
        source, weight = (found["source"], float(found["weight"])) if found else (word, 1.0)
        if source in weights:
            raise ConfigError(f"--data names {source!r} twice; give it once, with the sum as its weight")
        weights[source] = weight
    check_weights(weights)
    return words[0] if list(weights) == words and len(words) == 1 else weights


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that are not positive numbers.

    Raises:
        ConfigError: one is not, or there are none.
    """
    if not weights:
        raise ConfigError("a mixture of texts needs at least one; name a file or a data set")
    for source, weight in weights.items():
        if not isinstance(source, str):
            raise ConfigError(f"the texts of a mixture must have names, not {type(source).__name__}; pass strings")
        if not isinstance(weight, int | float) or not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"the weight of {source!r} in --data must be a positive number, not {weight!r}")


def _look_at(path: Path, source: str) -> tuple[int, int]:
    """Return mode and size, or zeros where nothing is."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    # ValueError for a name with a NUL
    except (OSError, ValueError) as error:
        reason = reason_and_remedy(error, "check the path", path)
        raise DataError(f"text {source!r} cannot be looked at: {reason}") from error
    return status.st_mode, status.st_size


def _checked(path: Path, source: str, size: int) -> Path:
    if not size:
        raise DataError(f"text {source!r} is empty; pass one with words in it")
    if (what := NOT_TEXT.get(ending_of(path))) is not None:
        raise not_text(path, what)
    return path


def not_text(path: Path, what: str) -> DataError:
    """Return the refusal of a file of a kind that is not read."""
    return DataError(f"text {str(path)!r} is {what}, which is not read; {REMEDIES.get(what, CONVERT)}")


def _folder(folder: Path, source: str) -> Local:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return Local(tuple(_walk(folder, source)), folder)
    found = [path for path in _walk(folder, source) if ending_of(path) in (*TABLES, *PLAIN, *NOTES)]
    return _of_one_kind([path for path in found if ending_of(path) not in NOTES] or found, source)


def _walk(folder: Path, source: str) -> Iterable[Path]:
    def fail(error: OSError) -> None:
        raise DataError(
            f"text {source!r} cannot be looked at: {reason_and_remedy(error, 'check the folder', folder)}"
        ) from error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _of_one_kind(paths: Iterable[Path], source: str) -> Local:
    files = tuple(sorted(path for path in paths if path.is_file()))
    if not files:
        raise DataError(
            f"{source!r} has no files of text; pass a {KINDS}, a folder of them, or a pattern such as 'd/*.txt'"
        )
    first: dict[str, Path] = {}
    for path in files:
        first.setdefault(kind_of(_checked(path, str(path), path.stat().st_size)), path)
    if len(first) > 1:
        some = " and ".join(repr(str(path)) for path in list(first.values())[:NAMED])
        raise DataError(
            f"{source!r} has files of several kinds, such as {some}; pass those of one kind by a pattern such as "
            f"{os.path.join(os.path.dirname(files[0]), '*' + files[0].suffix)!r}"
        )
    return Local(files)


def _looks_like_hub_name(source: str) -> bool:
    parts = source.partition(":")[0].split("/")
    return len(parts) == 2 and all(parts) and parts[0][0] not in ".~" and not parts[1].lower().endswith(ENDINGS)

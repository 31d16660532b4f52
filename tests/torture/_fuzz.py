"""Coverage-guided fuzzing of one reader: python tests/torture/_fuzz.py READER TEMPLATE [OPTION OF LIBFUZZER...].

Only an error of ours may come out; any other ends the run with the input that caused it.  It needs atheris.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

# imported before anything is instrumented: libraries are not what is tested
for name in ("torch", "transformers", "datasets", "numpy"):
    importlib.import_module(name)
with atheris.instrument_imports(include=["unipruning_core"]):
    from unipruning_core.data.text import load_text
    from unipruning_core.errors import UnipruningError
    from unipruning_core.projection.mask_file import read_masks
    from unipruning_core.projection.report import read_report
    from unipruning_core.search.resume import Resume
    from unipruning_core.search.run_folder import Run
    from unipruning_core.sparsity.budget import Budget
    from unipruning_core.sparsity.parse import parse_sparsity
    from unipruning_core.storage.checkpoint import Checkpoint
    from unipruning_core.storage.config import check_config, read_config
    from unipruning_core.storage.tensorfile import read_header, read_tensor
    from unipruning_core.tools.bench.report import read_earlier

# it is given a folder of the template
Reader = Callable[[Path], object]


def _weights(folder: Path) -> None:
    for info in read_header(folder / "model.safetensors")[0].values():
        read_tensor(info)


def _config(folder: Path) -> None:
    path = folder / "config.json"
    check_config(path, read_config(path), Checkpoint.open(folder).tensors.values())


def _masks(folder: Path) -> None:
    masks = read_masks(folder)
    for target in masks.targets:
        masks.read(target.name)


def _run(folder: Path) -> None:
    run = Run.open(folder)
    for target in run.targets:
        run.score(target.name)
    _ = run.thresholds, run.fingerprint, run.scope, run.provenance


def _state(folder: Path) -> None:
    found = max(folder.rglob("state*.json"))
    identity = None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        identity = json.loads(found.read_bytes())["identity"]
    # that of the same search, so that all of it is read
    Resume(folder, identity if isinstance(identity, dict) else {}).found()


def _sparsity(folder: Path) -> None:
    text = (folder / "sparsity").read_bytes().decode("utf-8", "surrogateescape")
    # a budget is another reader's, and would be sought anywhere
    if not text.startswith("@"):
        parse_sparsity(text)


# the folder of the template, the file there that is fuzzed, by its name or a pattern, and who reads it
READERS: dict[str, tuple[str, str, Reader]] = {
    "header": ("model", "model.safetensors", _weights),
    "index": ("sharded", "model.safetensors.index.json", lambda folder: Checkpoint.open(folder).fingerprint()),
    "config": ("model", "config.json", _config),
    "run": ("run", "run.json", _run),
    "masks": ("pruned", "unipruning.masks", _masks),
    "report": ("pruned", "unipruning.json", read_report),
    "masks-2-4": ("pruned-2-4", "unipruning.masks", _masks),
    "state": ("state-drift/run", "**/state*.json", _state),
    "budget": ("texts", "budget.json", lambda folder: Budget.read(folder / "budget.json")),
    "sparsity": ("texts", "sparsity", _sparsity),
    "jsonl": ("texts", "text.jsonl", lambda folder: load_text(str(folder / "text.jsonl"))),
    "parquet": ("texts", "text.parquet", lambda folder: load_text(str(folder / "text.parquet"))),
    "text": ("texts", "text.txt", lambda folder: load_text(str(folder / "text.txt"))),
    "bench": ("texts", "bench.json", lambda folder: read_earlier(folder / "bench.json")),
}


def _sealed(data: bytes) -> bytes:
    """Give a document the checksum of its content, so that all of it is read; the first byte decides."""
    if data[:1] != b" ":
        return data
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(document, dict):
        return data
    document.pop("checksum", None)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return json.dumps({**document, "checksum": digest}).encode()


def main() -> None:
    name, template = sys.argv[1], Path(sys.argv[2])
    source, pattern, read = READERS[name]
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    folder = place / "folder"
    shutil.copytree(template / source, folder)
    path = max(folder.glob(pattern))  # of two saved states the one that is read first

    def once(data: bytes) -> None:
        path.write_bytes(_sealed(data) if path.name in ("run.json", "state.json", "unipruning.json") else data)
        with contextlib.suppress(UnipruningError):
            read(folder)

    corpus = place / "corpus"
    corpus.mkdir()
    shutil.copy(path, corpus / "seed")
    (corpus / "sealed").write_bytes(b" " + path.read_bytes())
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

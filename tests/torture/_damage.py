"""Every kind of file that is read, damaged: nothing may change in silence, end in a traceback or hang."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import Result
from _server import Command, Ended, cleared
from _world import MODES, TEXTS, World, differing, halfway, must, run, saved_states, tree, unfinished

NUMBERS = (0, -1, 1, 7, 10**9, 1 << 63, 0.5, 1e308, 1e-320, float("nan"))
EXTREMES = (None, True, False, *NUMBERS, "", "x", "0" * 400, [], {}, [[]])
Region = Callable[[bytes], tuple[int, int]]


@dataclass
class Kind:
    """A file to damage, and the command that reads it.

    ``sealed``: a checksum can know of the damage, so that what is done must be what would have been done without it.
    """

    name: str
    base: Path  # where to copy from
    needs: Sequence[str]  # what to copy
    file: str
    words: Sequence[str]  # empty: read the masks in ``output``
    output: str
    sealed: bool
    region: Region | None = None
    wanted: dict[str, str] | None = None

    def prepare(self, folder: Path) -> None:
        """Find out what the command does without damage."""
        work = self.start(folder / "undisturbed")
        if not (ended := self.run(work)).done:
            raise RuntimeError(f"{self.name} failed undisturbed: {ended.text}")
        self.wanted = self.result(work)

    def start(self, folder: Path) -> Path:
        cleared(folder)
        for need in self.needs:
            source = self.base / need
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / need)
        return folder

    def run(self, work: Path) -> Ended:
        return run(self.words, work) if self.words else Command.calling(_masks, work).ended()

    def result(self, work: Path) -> dict[str, str]:
        if not self.words:
            return {"masks": (work / "digest").read_text() if (work / "digest").exists() else ""}
        path = work / self.output
        return tree(path) if path.is_dir() else {}


def make_template(world: World, folder: Path) -> None:
    """Make finished and unfinished work of every sort, with the inputs beside it, by relative names."""
    shutil.copytree(world.folder, folder)
    runs = (("drift", "run", "model"), ("frozen", "run-frozen", "model"), ("drift", "run-sharded", "sharded"))
    for mode, run_folder, model in runs:
        must(search_words(model, mode, "text.txt", run_folder), folder)
    for sparsity, out in (("60%", "pruned"), ("2:4", "pruned-2-4")):
        must(project_words("model", "run", sparsity, out), folder)
    must(compare_words(), folder)
    must(bench_words("--json", "bench.json"), folder)
    for mode in MODES:
        state = folder / f"state-{mode}"
        state.mkdir()
        for name in ("model", "text.txt"):
            (shutil.copytree if name == "model" else shutil.copy)(folder / name, state / name)
        unfinished(resumed_words(mode), state)
        shutil.rmtree(state / "tmp", ignore_errors=True)
    halfway(replacing_words(), folder, ("model", "text.txt", "run"), folder / "placing")
    # what is read alone
    (folder / "texts").mkdir()
    for name in ("text.jsonl", "text.parquet", "text.txt", "budget.json", "bench.json"):
        shutil.copy(folder / name, folder / "texts")
    (folder / "texts" / "sparsity").write_text("60%/row")


def kinds_of(template: Path, names: str = "") -> list[Kind]:
    """Return every kind whose name contains ``names``."""
    weights, text = "model/model.safetensors", "text.txt"
    search, project = search_words("model", "frozen", text, "out"), project_words("model", "run", "60%", "out")
    kinds: list[Kind] = []

    def add(
        name: str,
        file: str,
        words: Sequence[str],
        *needs: str,
        sealed: bool = False,
        output: str = "out",
        region: Region | None = None,
        base: Path = template,
    ) -> None:
        if names in name:
            kinds.append(Kind(name, base, needs, file, words, output, sealed, region))

    add("model header, search", weights, search, "model", text, region=_header)
    add("model data, search", weights, search, "model", text, region=_data)
    add("model header, project", weights, project, "model", "run", region=_header)
    add("targets of the model, project", weights, project, "model", "run", region=_targets, sealed=True)
    for command in (
        search_words("sharded", "frozen", text, "out"),
        project_words("sharded", "run-sharded", "60%", "out"),
    ):
        needs = ("sharded", "run-sharded", text)
        add(f"index, {command[0]}", "sharded/model.safetensors.index.json", command, *needs)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        add(f"{name}, search", f"model/{name}", search, "model", text)
    for name in ("config.json", "generation_config.json"):
        add(f"{name}, project", f"model/{name}", project, "model", "run")
    old, needs = "run/unfinished/old.json", ("model", text, "run")
    add("files to replace", old, replacing_words(), *needs, sealed=True, output="run", base=template / "placing")
    for kind in TEXTS:
        add(kind, kind, search_words("model", "frozen", kind, "out"), "model", kind)
    for folder in ("run", "run-frozen"):
        for name in _files(template / folder):
            words = project_words("model", folder, "60%", "out")
            add(f"{folder}/{name}", f"{folder}/{name}", words, "model", folder, sealed=True)
    for mode in MODES:
        state = template / f"state-{mode}"
        states = saved_states(state)
        for name in _files(state / "run"):
            path = state / "run" / name
            age = ("older ", "newest ")[states.index(path.parent)] if path.parent in states else ""
            what, needs = f"saved state of {mode}, {age}{path.name}", ("model", text, "run")
            add(what, f"run/{name}", resumed_words(mode), *needs, sealed=True, output="run", base=state)
    for folder in ("pruned", "pruned-2-4"):
        add(f"{folder}/unipruning.masks", f"{folder}/unipruning.masks", [], folder, sealed=True)
    overwrite = [*project_words("model", "run", "60%", "pruned"), "--overwrite"]
    needs = ("model", "run", "pruned")
    add("report before --overwrite", "pruned/unipruning.json", overwrite, *needs, sealed=True, output="pruned")
    for name in _files(template / "table"):
        if name.endswith(".json") and "run" not in Path(name).parts:
            what, needs = Path(name).parts[0], ("model", text, "table")
            add(f"comparison's {what}", f"table/{name}", compare_words(), *needs, sealed=True, output="table")
    add("budget", "budget.json", project_words("model", "run", "@budget.json", "out"), "model", "run", "budget.json")
    add("bench --compare", "bench.json", bench_words("--compare", "bench.json"), "bench.json")
    return kinds


def damage(kind: Kind, folder: Path, chance: random.Random) -> Result:
    """Damage the file at random, run the command, and judge."""
    work = kind.start(folder / "work")
    file = work / kind.file
    content = file.read_bytes()
    while True:
        what, changed = _changed(content, kind, chance)
        if changed != content:
            break
    file.write_bytes(changed)
    ended = kind.run(work)
    if ended.fault:
        return Result("damage", kind.name, what, f"{ended.fault}: {ended.last}")
    if ended.refused:
        return Result("damage", kind.name, what, None, outcome="refused")
    assert kind.wanted is not None
    # a damaged file of the result itself may stay as it is where nothing depends on it
    damaged = {kind.file.removeprefix(f"{kind.output}/"): ""}
    difference = differing(kind.result(work) | damaged, kind.wanted | damaged)
    if difference is None:
        return Result("damage", kind.name, what, None, outcome="same")
    if kind.sealed:
        return Result("damage", kind.name, what, f"silent: {difference}")
    return Result("damage", kind.name, what, None, outcome="other input")


def _changed(content: bytes, kind: Kind, chance: random.Random) -> tuple[str, bytes]:
    if kind.file.endswith(".json") and chance.random() < 0.5:
        return edited(content, chance)
    start, end = kind.region(content) if kind.region else (0, len(content))
    at = chance.randrange(start, max(start + 1, end))
    changed = bytearray(content)
    match chance.choice(("byte", "bit", "four bytes", "cut", "zeros", "insertion")):
        case "byte":
            what, changed[at] = f"byte {at}", chance.randrange(256)
        case "bit":
            bit = chance.randrange(8)
            what, changed[at] = f"bit {bit} of byte {at}", changed[at] ^ (1 << bit)
        case "four bytes":
            what, changed[at : at + 4] = f"bytes {at} to {at + 3}", chance.randbytes(len(changed[at : at + 4]))
        case "cut":
            what, changed = f"cut to {at} bytes", changed[:at]
        case "zeros":
            length = len(changed[at : at + chance.randint(1, 64)])
            what, changed[at : at + length] = f"{length} zeros at {at}", bytes(length)
        case _:
            new = chance.randbytes(chance.randint(1, 16))
            what, changed[at:at] = f"{len(new)} bytes inserted at {at}", new
    return what, bytes(changed)


def edited(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Change a JSON document and keep it one: a key removed, or a value of another type, or an extreme one."""
    document = json.loads(content)
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, path: str) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            places.append((value, key, f"{path}/{key}"))
            walk(item, f"{path}/{key}")

    walk(document, "")
    parent, key, path = chance.choice(places)
    if chance.random() < 0.3:
        del parent[key]
        what = f"{path} removed"
    else:
        parent[key] = chance.choice(EXTREMES)
        what = f"{path} = {parent[key]!r}"[:80]
    return what, json.dumps(document, indent=1).encode()


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _header(content: bytes) -> tuple[int, int]:
    return 0, 8 + int.from_bytes(content[:8], "little")


def _data(content: bytes) -> tuple[int, int]:
    return _header(content)[1], len(content)


def _targets(content: bytes) -> tuple[int, int]:
    """The bytes from the first to the last matrix of one block, which are neighbours in the file."""
    base = _header(content)[1]
    header = json.loads(content[8:base])
    places = [entry["data_offsets"] for name, entry in header.items() if "layers.0.mlp" in name]
    return base + min(start for start, _ in places), base + max(end for _, end in places)


def search_words(model: str, mode: str, text: str, out: str, samples: str = "2") -> list[str]:
    data = ["--data", text, "--samples", samples, "--seq-len", "16", "--backend", "cpu"]
    return ["search", model, *data, "--mode", mode, "--out", out]


def resumed_words(mode: str) -> list[str]:
    return [*search_words("model", mode, "text.txt", "run", "4"), "--save-every", "0"]


def replacing_words() -> list[str]:
    return [*search_words("model", "drift", "text.txt", "run", "3"), "--overwrite"]


def project_words(model: str, run_folder: str, sparsity: str, out: str) -> list[str]:
    return ["project", model, run_folder, "--sparsity", sparsity, "--out", out, "--backend", "cpu"]


def compare_words() -> list[str]:
    text = ["--data", "text.txt", "--samples", "2", "--seq-len", "16", "--backend", "cpu"]
    evaluation = ["--eval-data", "text.txt", "--windows", "2", "--eval-seq-len", "16"]
    return ["compare", "model", *text, *evaluation, "--methods", "magnitude", "--sparsity", "50%", "--out", "table"]


def bench_words(*words: str) -> list[str]:
    return ["bench", "nm_mask", "--shape", "8x32", "--dtype", "float32", "--backend", "cpu", *words]


def _masks() -> int:
    from unipruning_core.errors import UnipruningError
    from unipruning_core.projection.mask_file import read_masks

    folder = next(path for path in Path().iterdir() if path.name.startswith("pruned"))
    try:
        masks = read_masks(folder)
        digest = hashlib.sha256(b"".join(masks.read(target.name).numpy().tobytes() for target in masks.targets))
    except UnipruningError as error:
        sys.stderr.write(f"error: {error}")
        return 2
    Path("digest").write_text(digest.hexdigest())
    return 0

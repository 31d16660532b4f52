"""Whether a change of the code changed a result: what the product wrote before and after it, compared byte for byte.

    python benchmarks/identity.py make OUT.json [--python INTERPRETER] [--models tiny,smollm2] [--only WORDS]
    python benchmarks/identity.py compare BEFORE.json AFTER.json

``make`` gives every version of the product, the one in INTERPRETER's environment (default: this one), the same models,
texts and words, on one thread and on the CPU where ``UNIPRUNING_BACKEND`` does not say otherwise.  It writes the sha256
of every V, input norm, mask and pruned checkpoint, and the thresholds, steps and losses of each search.  ``compare``
exits with 1 where one of them differs or is on one side alone.  Records and reports are not compared as files: they may
be put another way.  Run it with the environment of the tree it lies in, which makes the models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _identity_cases import BUDGET, CASES, MODELS, REFERENCES, SPARSITIES, cases_of

SCHEMA = "unipruning-identity-1"
ROOT = Path(__file__).parents[1]
SHOWN = 20  # differences; the rest is counted
ROW = "{:26}{:>8}{:>9}{:>13}"
Entries = dict[str, Any]  # of one case: the sha256 of a file, or a number, by what it is
# what may explain a difference
ENVIRONMENT = """
import hashlib, json, platform
from importlib.metadata import version
from pathlib import Path
import torch, unipruning_core
code, folder = hashlib.sha256(), Path(unipruning_core.__file__).parent
for path in sorted(folder.rglob("*.py")):
    code.update(str(path.relative_to(folder)).encode() + path.read_bytes())
packages = {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy")}
machine = {"python": platform.python_version(), "processor": torch.backends.cpu.get_cpu_capability()}
print(json.dumps({"unipruning_core": code.hexdigest()[:12], **packages, **machine}))
"""


class IdentityError(Exception):
    """What ends the script with one sentence."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write what one version of the product makes")
    making.add_argument("out", type=Path, metavar="OUT.json")
    making.add_argument("--python", default=sys.executable, metavar="INTERPRETER", help="default: this one")
    making.add_argument("--models", default="tiny,smollm2", help="groups of them (default: %(default)s)")
    making.add_argument("--only", default="", metavar="WORDS", help="the cases with these letters, as in llama/drift")
    comparing = commands.add_parser("compare", help="say whether two versions made the same")
    comparing.add_argument("before", type=Path, metavar="BEFORE.json")
    comparing.add_argument("after", type=Path, metavar="AFTER.json")
    options = parser.parse_args()
    try:
        if options.command == "compare":
            return compare(read(options.before), read(options.after))
        # said before the work rather than after it
        if not options.out.parent.is_dir():
            raise IdentityError(f"{str(options.out)!r} should be written, but its folder is not there; make that first")
        record = make(options.python, options.models.split(","), options.only)
        options.out.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
    except IdentityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make(python: str, groups: list[str], only: str) -> dict[str, Any]:
    """All entries of one version; each model is made once, each search and what came of it deleted when read."""
    if unknown := set(groups) - {model.group for model in MODELS.values()}:
        raise IdentityError(f"--models takes tiny and smollm2, but was given {min(unknown)!r}; leave it out")
    wanted = [(name, case) for name in MODELS for case in cases_of(name) if MODELS[name].group in groups]
    wanted = [(name, case) for name, case in wanted if only in f"{name}/{case}"]
    if not wanted:
        raise IdentityError(f"--only should leave a case, but {only!r} is in none; take one of {', '.join(CASES)}")
    results: dict[str, Entries] = {}
    with tempfile.TemporaryDirectory() as folder:
        product = Product(python, Path(folder))
        environment = json.loads(product.child("-c", ENVIRONMENT))
        (product.work / "budget.json").write_text(json.dumps(BUDGET))
        for name in dict.fromkeys(name for name, _ in wanted):
            results[f"{name}/given"] = given(name, product.work)
        for name, case in wanted:
            began = time.perf_counter()
            found = results[f"{name}/{case}"] = made(product, name, case)
            print(f"{name}/{case}: {len(found)} results, {time.perf_counter() - began:.0f} s", file=sys.stderr)
        return {"schema": SCHEMA, "environment": environment, "results": results}


class Product:
    """One version's command line, run where every version finds the same names."""

    def __init__(self, python: str, work: Path) -> None:
        if (found := shutil.which(python)) is None:
            raise IdentityError(f"--python should name an interpreter, but {python!r} is none; give its path")
        # not resolved: the interpreter of an environment is a link
        self.python, self.work = os.path.abspath(found), work
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.variables = {"UNIPRUNING_BACKEND": "cpu", **variables, "OMP_NUM_THREADS": "1"}

    def run(self, *words: str) -> str:
        return self.child("-m", "unipruning_core.cli", *words)

    def child(self, *words: str) -> str:
        done = subprocess.run(
            [self.python, *words], cwd=self.work, env=self.variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            asked, said = " ".join(" ".join(words).split()), (done.stderr.strip() or "nothing").splitlines()[-1]
            raise IdentityError(
                f"{asked[:99]!r} should succeed, but ended with {done.returncode} and said: {said}; mend that, or give"
                " another --python"
            )
        return done.stdout


def given(name: str, work: Path) -> Entries:
    """Make a model and its text below ``work``; their checksums, so that no difference in them goes unseen."""
    folder, text = work / name, work / MODELS[name].text
    if MODELS[name].group == "tiny":
        sys.path.insert(0, str(ROOT / "tests" / "core"))
        from _checkpoints import save_gpt2, save_llama, save_text, save_tokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        if name == "llama":
            save_llama(folder, shards=True)
        else:
            save_gpt2(folder)
        save_tokenizer(folder)
        save_text(text)
    else:
        from unipruning_core.tools.demo.assets import demo_model, demo_texts

        folder.symlink_to(demo_model())
        text.symlink_to(demo_texts()[0])
    paths = [*sorted(folder.glob("model*.safetensors")), folder / "tokenizer.json", text]
    return {path.name: sha256(path) for path in paths}


def made(product: Product, name: str, case: str) -> Entries:
    """What one case comes to."""
    model, scratch = MODELS[name], product.work / "scratch"
    calibration = [*model.words, "--samples", str(model.samples)]
    scratch.mkdir()
    try:
        if case == "perplexity":
            measured = json.loads(product.run("perplexity", name, *model.words, "--json"))
            return {"nll": measured["nll"], **numbered("nll", measured["per_window_nll"])}
        if case in REFERENCES:
            words = ["--sparsity", REFERENCES[case], *calibration, "--out", "scratch/pruned"]
            product.run("reference-sparsegpt", name, *words)
            return checkpoint(scratch / "pruned")
        product.run("search", name, "--out", "scratch/run", *calibration, *CASES[case].words.split())
        return run(scratch / "run") | projected(product, name, CASES[case].scheme)
    finally:
        shutil.rmtree(scratch)


def projected(product: Product, name: str, scheme: str) -> Entries:
    """Every sparsity of a run, all in one pass."""
    asked = list(SPARSITIES)
    if scheme:
        words = ["--scheme", scheme, "--sparsity", "60%", "--out", f"scratch/{scheme}.json"]
        product.run("allocate", name, "scratch/run", *words)
        asked.append(f"@scratch/{scheme}.json")
    words = [word for sparsity in asked for word in ("--sparsity", sparsity)]
    product.run("project", name, "scratch/run", *words, "--out", "scratch/pruned")
    folders = sorted(path for path in (product.work / "scratch" / "pruned").iterdir() if path.is_dir())
    if len(folders) != len(asked):
        raise IdentityError(f"'project' should write {len(asked)} checkpoints, but wrote {len(folders)}; look why")
    return {f"{path.name}/{key}": value for path in folders for key, value in checkpoint(path).items()}


def run(folder: Path) -> Entries:
    """V, the input norms where there are any, and what the record says of thresholds, steps and losses."""
    record = json.loads(the_one(folder, "run.json").read_text(encoding="utf-8"))
    found: Entries = {"dual": sha256(the_one(folder, "dual*"))}
    if any(folder.rglob("inputs*")):
        found["inputs"] = sha256(the_one(folder, "inputs*"))
    for target in record["targets"]:
        found |= {f"{part}/{target['name']}": target[part] for part in ("threshold", "steps")}
    return found | numbered("loss", record["losses"])


def checkpoint(folder: Path) -> Entries:
    """The weights, file by file, and the masks, wherever in the folder they lie."""
    weights = sorted(folder.rglob("model*.safetensors"))
    if not weights:
        raise IdentityError(f"{folder.name!r} should hold weights, but has none; look for them where they went")
    return {path.name: sha256(path) for path in weights} | {"masks": sha256(the_one(folder, "*masks*"))}


def the_one(folder: Path, pattern: str) -> Path:
    """The only file of its role: its place may differ between versions."""
    found = [path for path in folder.rglob(pattern) if path.is_file()]
    if len(found) != 1:
        raise IdentityError(f"{folder.name!r} should hold one file {pattern!r}, but has {len(found)}; mend the pattern")
    return found[0]


def numbered(name: str, values: list[Any]) -> Entries:
    return {f"{name}/{index}": value for index, value in enumerate(values)}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read(path: Path) -> dict[str, Any]:
    """What ``make`` wrote."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA or not record["results"]:
            raise ValueError(f"schema {record['schema']!r}, {len(record['results'])} cases")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IdentityError(f"{str(path)!r} should be what 'make' wrote, but is not ({error}); make it anew") from error
    return record


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print a row a case and every difference; 1 if there is any."""
    old, new, found = before["results"], after["results"], []
    print(ROW.format("", "files", "numbers", "differences"))
    total = [0, 0]
    for case in old | new:
        counts, differing = compare_case(old.get(case, {}), new.get(case, {}))
        print(ROW.format(case, *counts, len(differing)))
        total = [sum(pair) for pair in zip(total, counts, strict=True)]
        found += [f"different: {case}/{line}" for line in differing]
    print(ROW.format("all", *total, len(found)))
    for line in found[:SHOWN]:
        print(line)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")
    was, now = before["environment"], after["environment"]
    changed = [f"{name} {was.get(name)} and {now.get(name)}" for name in was | now if was.get(name) != now.get(name)]
    print(f"beside the results differ: {', '.join(changed) or 'nothing, not even the code'}")
    return 1 if found else 0


def compare_case(before: Entries, after: Entries) -> tuple[tuple[int, int], list[str]]:
    """How many files and numbers there are, and a line for each that is not the same."""
    # as JSON, in which NaN is NaN and 1 is not 1.0
    old, new = ({name: json.dumps(value) for name, value in side.items()} for side in (before, after))
    both = old | new
    files = sum(value.startswith('"') for value in both.values())
    changed = [name for name in both if old.get(name) != new.get(name)]
    lines = [f"{name}: {old.get(name, 'nothing')} before, {new.get(name, 'nothing')} after" for name in changed]
    return (files, len(both) - files), lines


if __name__ == "__main__":
    sys.exit(main())

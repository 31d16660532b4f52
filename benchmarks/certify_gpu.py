"""Certify a GPU: run the tests that need one, doctor, bench and the cost of whole searches, into a folder of JSON.

    python benchmarks/certify_gpu.py                                     # everything, into build/certificate
    python benchmarks/certify_gpu.py --only conformance doctor tests     # some parts now ...
    python benchmarks/certify_gpu.py --seconds 540                       # ... and in another command what is left

Each part runs in a process of its own and writes its own file.  What became of it is in certificate.json as soon as it
ends, so a part that fails or runs out of time loses no other, and the same command goes on where one was interrupted:
parts that passed or failed are not run again, those that ran out of time are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any

from _certificate import BACKEND, ROOT, Part, parts_of, run_part, write

SCHEMA = "unipruning-certificate-2"
SUMMARY = "certificate.json"
ENDED = ("passed", "failed")  # results that stay
SHORTEST = 15.0  # seconds without which no part is begun
SOURCES = ("unipruning_core", "backends", "kernels", "benchmarks", "tests/gpu")
PACKAGES = ("unipruning", "torch", "triton", "transformers", "numpy")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "build" / "certificate",
        metavar="FOLDER",
        help="the folder to write, or one to go on with (default: build/certificate)",
    )
    parser.add_argument("--model", default="llama-2-7b", help="the model whose layers are timed (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="run these parts and no others, see --list")
    parser.add_argument("--again", action="store_true", help="run parts again that have passed or failed")
    parser.add_argument(
        "--part-seconds",
        type=float,
        default=inf,
        metavar="N",
        help="interrupt each part after so many seconds (default: no limit)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=inf,
        metavar="N",
        help="end after about so many seconds in all: the part that runs then is interrupted (default: no limit)",
    )
    parser.add_argument("--list", action="store_true", help="list the parts, and what is known of each")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if every part that ran passed, 1 if one did not, 2 if nothing can be certified."""
    began = time.monotonic()
    options = parser().parse_args(arguments)
    parts = parts_of(options.model)
    names = [part.name for part in parts]
    if unknown := [name for name in options.only or () if name not in names]:
        return refuse(f"--only takes {', '.join(names)}, not {unknown[0]!r}")
    for flag, seconds in (("--part-seconds", options.part_seconds), ("--seconds", options.seconds)):
        if not seconds > 0:
            return refuse(f"{flag} must be positive, not {seconds:g}")
    subject = {"model": options.model, "software": software(), "sources": sources()}
    try:
        certificate = earlier(options.out, subject) or {"schema": SCHEMA, "ok": False, **subject, "parts": {}}
    except ValueError as error:
        return refuse(str(error))
    if options.list:
        print(table(parts, certificate))
        return 0
    if missing := why_no_gpu():
        return refuse(f"a certificate needs a GPU that the backend {BACKEND} can use, but {missing}")
    options.out.mkdir(parents=True, exist_ok=True)
    ran = []
    for part in parts:
        known = certificate["parts"].get(part.name, {}).get("result")
        if part.name not in (options.only or names) or (known in ENDED and not options.again):
            continue
        left = options.seconds - (time.monotonic() - began)
        if left < min(SHORTEST, options.seconds):
            break
        limit = min(left, options.part_seconds)
        print(f"\n{part.name}: {part.does}" + (f", for at most {limit:.0f} s" if limit < inf else ""), flush=True)
        certificate["parts"][part.name] = run_part(part, options.out, limit)
        certificate["ok"] = all(certificate["parts"].get(name, {}).get("result") == "passed" for name in names)
        write(options.out / SUMMARY, certificate)
        ran.append(part.name)
    print(f"\n{table(parts, certificate)}")
    print(f"{summary(certificate, names)}; the folder is {options.out}")
    return 0 if all(certificate["parts"][name]["result"] == "passed" for name in ran) else 1


def table(parts: Sequence[Part], certificate: dict[str, Any]) -> str:
    """Return a line for each part: what became of it, in what time, and what did not pass."""
    lines = []
    for part in parts:
        found = certificate["parts"].get(part.name)
        if found is None:
            lines.append(f"{part.name:20} not run     {part.does}")
            continue
        bad = found.get("not passed") or []
        named = f"   {len(bad)} not passed, the first is {bad[0]}" if bad else ""
        lines.append(f"{part.name:20} {found['result']:9} {found['seconds']:7.0f} s{named}")
    return "\n".join(lines)


def summary(certificate: dict[str, Any], names: Sequence[str]) -> str:
    results = [certificate["parts"].get(name, {}).get("result", "not run") for name in names]
    counts = [f"{results.count(kind)} {kind}" for kind in ("passed", "failed", "timed out", "not run")]
    told = ", ".join(count for count in counts if not count.startswith("0 "))
    left = len(results) - sum(results.count(kind) for kind in ENDED)
    return f"{told}; the same command without --only runs what is left" if left else told


def earlier(folder: Path, subject: dict[str, Any]) -> dict[str, Any] | None:
    """Return the certificate that a folder holds, to go on with, or None if it is empty or not there.

    Raises:
        ValueError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    remedy = "pass another folder with --out, or remove it"
    try:
        found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        schema = found["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{str(folder)!r} exists and holds no {SUMMARY} to go on with; {remedy}") from None
    if schema != SCHEMA:
        raise ValueError(f"{str(folder)!r} holds a certificate of the schema {schema!r}, not {SCHEMA!r}; {remedy}")
    for key, value in subject.items():
        if found.get(key) != value:
            raise ValueError(f"{str(folder)!r} holds a certificate of other {key} ({found.get(key)!r}); {remedy}")
    return found


def software() -> dict[str, str]:
    """Return the versions of what is certified, of the packages that are there."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def sources() -> str:
    """Return the sha256 of the sources that a certificate is about."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def why_no_gpu() -> str | None:
    """Return why no GPU can be certified here, or None if one can."""
    from unipruning_core.registry import Catalogue

    catalogue = Catalogue()
    if (spec := catalogue.specs.get(BACKEND)) is None:
        return "it is not known to this Python, where unipruning is not installed; pip install --no-deps -e ."
    probe = catalogue.probe(spec)
    if not probe.available:
        return probe.detail
    return "TRITON_INTERPRET is set; unset it" if spec.device_type == "cpu" else None


def refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a part is ended with this program
    sys.exit(main())

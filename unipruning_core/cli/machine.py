"""The commands that examine this machine: backends, conform and doctor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unipruning_core.cli.arguments import Command
from unipruning_core.extensions import REMEDY, load_extensions
from unipruning_core.storage.outputs import check_file, write_whole

DOCTOR_DETAILS = """\
Examines python, torch, accelerators, backends, compiler, memory, disk and model cache, and runs the conformance vectors
on every backend that can run here, if pytest is installed.  Exits with 1 if something that should work does not.  The
report names no host, user or path, so that it can be shared with anyone.

example
  unipruning doctor --json doctor.json
"""


def add_commands(command: Command) -> None:
    backends = command("backends", _backends, "list the installed backends, and why some cannot run here")
    backends.add_argument("--json", action="store_true", help="print JSON")
    conform = command("conform", _conform, "check that a backend meets the contract on this machine (needs pytest)")
    conform.add_argument(
        "--backend", default="cpu", help="a name listed by 'unipruning backends' (default: %(default)s)"
    )
    conform.add_argument(
        "pytest_options", nargs="*", default=[], metavar="PYTEST_OPTION", help="options to pass to pytest, after --"
    )
    doctor = command("doctor", _doctor, "report what this machine can do, and whether it does it right", DOCTOR_DETAILS)
    doctor.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")


def _backends(options: argparse.Namespace) -> int:
    from unipruning_core.backend import OPERATIONS
    from unipruning_core.registry import Catalogue

    extensions = load_extensions()
    catalogue = Catalogue()
    rows: list[dict[str, Any]] = []
    for spec in sorted(catalogue.specs.values(), key=lambda spec: (-spec.priority, spec.name)):
        probe = catalogue.probe(spec)
        rows.append(
            {
                "name": spec.name,
                "device": spec.device_type,
                "available": probe.available,
                "detail": probe.detail,
                "optimised": [name for name in OPERATIONS if name in spec.optimised],
                "reference": [name for name in OPERATIONS if name not in spec.optimised],
            }
        )
    broken = {name: f"{type(error).__name__}: {error}" for name, error in catalogue.broken.items()}
    if options.json:
        print(json.dumps({"backends": rows, "broken": broken, "extensions": extensions}, indent=1, allow_nan=False))
        return 0
    for row in rows:
        print(f"{row['name']:8} {row['device']:6} {'yes' if row['available'] else 'no':4} {row['detail']}")
        for kind in ("optimised", "reference"):
            print(f"{'':20} {kind}: {', '.join(row[kind]) or 'none'}")
    for name, reason in broken.items():
        print(f"{name:8} {'?':6} no   its plugin failed to load: {reason}")
    for name, reason in extensions.items():
        print(f"every command that computes fails with torch's device extension {name} ({reason}); {REMEDY}")
    return 0


def _conform(options: argparse.Namespace) -> int:
    from unipruning_core.testing.runner import run

    return run(options.backend, options.pytest_options)


def _doctor(options: argparse.Namespace) -> int:
    if options.json:
        check_file(options.json)
    # before the doctor imports torch
    extensions = load_extensions()
    from unipruning_core.tools.doctor import MARKS, examine

    report = examine(extensions)
    for check in report.checks:
        print(f"{MARKS[check.ok]:4} {check.name:28} {check.detail}")
    if options.json:
        write_whole(options.json, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    return 0 if report.ok else 1

"""Certify a machine: chip, versions, the whole conformance suite and timings, in one JSON document.

    python benchmarks/certify_npu.py [--backend npu] [--json FILE] [--only EXPRESSION] [--shape 4096x4096] [OP ...]

For anyone with a card.  Each part runs in a process of its own, so that a crash in one leaves the others intact.  The
exit status is 1 unless every conformance case that ran passed and every timed result was correct.  The document names
no host, no user and no path.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

SCHEMA = "unipruning-npu-certificate-1"
# known only to the vendor's package; null where that is not installed or does not say
VENDOR = """
import json
def ask(question):
    try:
        return question()
    except Exception as error:
        return None
import torch
npu = ask(lambda: torch.get_device_module("npu"))
def cann():
    from torch_npu.npu.utils import get_cann_version
    return get_cann_version() or None
def version():
    import torch_npu
    return torch_npu.__version__
print(json.dumps({
    "torch_npu": ask(version),
    "chip": ask(lambda: npu.get_device_name(0)),
    "devices": ask(lambda: npu.device_count()),
    "cann": ask(cann),
    "memory": ask(lambda: npu.mem_get_info(0)[1]),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operations", nargs="*", metavar="OP", help="operations to time (default: all)")
    parser.add_argument("--backend", default="npu", help="backend to certify (default: %(default)s)")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("certificate.json"),
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        metavar="EXPRESSION",
        help="run only the matching conformance cases, as pytest's -k; the certificate records this",
    )
    parser.add_argument("--shape", default="4096x4096", help="shape of the timed matrix (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        suite = conformance(options.backend, options.only, Path(name))
        timing = timings(options.backend, options.shape, options.operations, Path(name))
    certificate = {
        "schema": SCHEMA,
        "backend": options.backend,
        "ok": suite["ok"] and timing["ok"],
        "device": vendor(),
        "conformance": suite,
        "timing": timing,
    }
    options.json.write_text(json.dumps(certificate, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(certificate, indent=1))
    return 0 if certificate["ok"] else 1


def vendor() -> dict[str, Any]:
    """Ask the vendor's package in a process of its own; return nothing if that fails."""
    done = subprocess.run([sys.executable, "-c", VENDOR], capture_output=True, text=True, check=False)
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return answers


def conformance(backend: str, only: str | None, folder: Path) -> dict[str, Any]:
    """Return the counts and the name of every case that does not pass."""
    results = folder / "suite.xml"
    arguments = ["conform", "--backend", backend, "--", "-q", f"--junitxml={results}"]
    code, last_line = command([*arguments, *(["-k", only] if only else [])])
    if not results.exists():
        return {"ok": False, "part": only, "said": last_line}
    suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    bad = [case.get("name") for case in suite.iter("testcase") if len(case)]
    return {
        "ok": code == 0 and counts["tests"] > 0 and not bad,
        "part": only,
        **counts,
        "seconds": float(suite.get("time", 0)),
        "not passed": bad,
    }


def timings(backend: str, shape: str, operations: list[str], folder: Path) -> dict[str, Any]:
    """Return what ``unipruning bench`` writes: the machine, and the times of results verified first."""
    results = folder / "bench.json"
    arguments = ["bench", *operations, "--backend", backend, "--shape", shape, "--baseline", "eager"]
    code, last_line = command([*arguments, "--json", str(results)])
    if not results.exists():
        return {"ok": False, "said": last_line}
    return {"ok": code == 0, **json.loads(results.read_text(encoding="utf-8"))}


def command(arguments: list[str]) -> tuple[int, str]:
    """Run a command of unipruning; return its exit status and the last line it printed."""
    argv = [sys.executable, "-m", "unipruning_core.cli", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())

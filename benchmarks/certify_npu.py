"""A certificate of one machine: chip, versions, the whole conformance suite and timings, as one JSON document.

    python benchmarks/certify_npu.py [--backend npu] [--json FILE] [--only WORDS] [--shape 4096x4096] [OP ...]

For whoever has a card that we have not.  Each part runs in a process of its own, so that one that crashes still leaves
the rest.  Exits with 1 unless every case of the suite that was run passes and every timed result was right.  The
document names no host, no user and no path.
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
# what only the vendor's own package knows; null where it is not installed or does not say
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
    parser.add_argument("operations", nargs="*", metavar="OP", help="which to time (default: all)")
    parser.add_argument("--backend", default="npu")
    parser.add_argument("--json", type=Path, default=Path("certificate.json"))
    parser.add_argument("--only", help="of the suite's cases, as pytest's -k; a certificate of a part says so")
    parser.add_argument("--shape", default="4096x4096", help="of the timed matrix")
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
    done = subprocess.run([sys.executable, "-c", VENDOR], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return found


def conformance(backend: str, only: str | None, folder: Path) -> dict[str, Any]:
    """Counts, and the name of every case that does not pass."""
    results = folder / "suite.xml"
    words = ["conform", "--backend", backend, "--", "-q", f"--junitxml={results}"]
    code, said = command([*words, *(["-k", only] if only else [])])
    if not results.exists():
        return {"ok": False, "part": only, "said": said}
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
    """What ``unipruning bench`` writes, each result verified before it was timed; and the machine it describes."""
    results = folder / "bench.json"
    words = ["bench", *operations, "--backend", backend, "--shape", shape, "--baseline", "eager"]
    code, said = command([*words, "--json", str(results)])
    if not results.exists():
        return {"ok": False, "said": said}
    return {"ok": code == 0, **json.loads(results.read_text(encoding="utf-8"))}


def command(words: list[str]) -> tuple[int, str]:
    """Run a command of ours: its exit code and the last thing it said."""
    called = [sys.executable, "-m", "unipruning_core.cli", *words]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    return done.returncode, (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())

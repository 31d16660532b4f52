"""The fuzzer's readers, each for some time in a process of its own."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

from _report import Result

FUZZER = Path(__file__).with_name("_fuzz.py")


def readers() -> list[str]:
    """Return the names in the fuzzer's table, which only a process with atheris can import."""
    return re.findall(r'^    "([a-z0-9-]+)": \(', FUZZER.read_text(), re.MULTILINE)


def fuzz(reader: str, template: Path, seconds: int, folder: Path, chance: random.Random) -> Result:
    """Fuzz one reader; the fault is the exception that came out."""
    options = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=4096",
        "-timeout=20",
        f"-seed={chance.randrange(1, 1 << 31)}",
    ]
    words = [sys.executable, str(FUZZER), reader, str(template), *options, f"-artifact_prefix={folder}/"]
    ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=seconds + 300)
    runs = re.search(r"Done (\d+) runs", ended.stderr)
    where = f"{runs[1]} inputs in {seconds} s" if runs else "stopped early"
    if ended.returncode == 0:
        return Result("fuzz", reader, where, None)
    raised = re.findall(
        r"^(?:[\w.]+(?:Error|Exception|Interrupt)\b.*|SUMMARY: .*)$", ended.stdout + ended.stderr, re.MULTILINE
    )
    inputs = [path.read_bytes()[:80] for path in sorted(folder.glob("*-*")) if path.is_file()]
    return Result("fuzz", reader, where, f"{raised[0] if raised else ended.stderr[-300:]} from {inputs[:1]}")

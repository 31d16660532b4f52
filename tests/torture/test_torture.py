"""A few cases of each attack; `make torture` runs all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("attacks", "fraction"), [(["kills", "signals", "pairs"], 0.04), (["damage"], 0.04), (["crafted"], 0.15)]
)
def test_nothing_is_lost_and_nothing_is_wrong_in_silence(attacks, fraction):
    words = [sys.executable, str(HERE), *attacks, "--fraction", str(fraction), "--workers", "1"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr

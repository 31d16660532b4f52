"""Build wheels from clean copies, without a network, and run commands as a stranger would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OVERS = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def call(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a stranger would, with nothing of this process's Python settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON", "UNIPRUNING"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def build(source: Path, folder: Path) -> Path:
    copy = folder / "source"
    shutil.copytree(source, copy, ignore=LEFT_OVERS)
    built = call(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, copy, cwd=folder)
    assert built.returncode == 0, built.stdout
    (wheel,) = folder.glob("*.whl")
    return wheel

"""What a measurement depends on besides the code: versions, device, threads and load.

Host names, user names and paths are left out, so that a report can be shared with anyone.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

# variables that change how a backend or torch works; paths in their values are shortened like any text
SETTINGS = re.compile(
    r"UNIPRUNING_\w+|OMP_NUM_THREADS|MKL_NUM_THREADS|TORCH_DEVICE_BACKEND_AUTOLOAD|\w+_VISIBLE_DEVICES"
)
PATH = re.compile(r"(?:(?<=^)|(?<=[\s'\"(=:,]))(?:[A-Za-z]:)?[\\/](?!/)(?:[^\s'\"(),:;]*[\\/])?(?=[^\s'\"(),:;])")


def environment(devices: dict[str, str]) -> dict[str, Any]:
    """Describe the environment; ``devices`` holds the probe detail of each backend."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        "devices": {name: without_paths(detail) for name, detail in devices.items()},
        "accelerator": accelerator(),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "packages": packages(),
        "commit": commit(),
        "settings": {
            name: without_paths(value) for name, value in sorted(os.environ.items()) if SETTINGS.fullmatch(name)
        },
    }


def accelerator() -> str | None:
    """Return torch's name for the accelerator, with its number of devices."""
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    return f"{device and device.type} x {torch.accelerator.device_count()}"


def packages() -> dict[str, str]:
    """Return the versions of this distribution and of every package it can use, where installed."""
    names = {"unipruning"} | {re.split(r"[^\w.-]", line)[0] for line in requires("unipruning") or ()}
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """Return the commit of the source checkout this runs from, with a plus sign if files have changed, or None."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--match=", "--dirty=+"]
    try:
        # an installed copy may lie inside somebody else's repository
        subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def without_paths(text: str) -> str:
    """Return the text with every absolute path cut down to its last part."""
    return PATH.sub("", text)

"""Wheels of the project and of the example backend, and a fresh environment that holds both."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest
from _wheels import PIP, ROOT, build, call


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("unipruning"))


@pytest.fixture(scope="session")
def toy_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "examples" / "unipruning-toy", tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def scratch_python(wheel: Path, toy_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with both wheels; torch and the like are borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    asked = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    # a plain path: what is editable in the borrowed environment stays out, for its own .pth files are not read
    Path(asked.stdout.strip(), "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    installed = call(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, toy_wheel, cwd=folder)
    assert installed.returncode == 0, installed.stdout
    return python

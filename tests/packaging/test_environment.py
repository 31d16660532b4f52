"""The environment that ``make`` builds on a machine with a GPU, a Python of its own and no network."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest
from _wheels import ROOT, call

pytestmark = pytest.mark.packaging

MODULES = {
    "torch/__init__.py": "from torch import cuda",
    "torch/cuda.py": "def is_available():\n    return True",
    "triton/__init__.py": "",
    "transformers/__init__.py": "",
    "transformers/models/__init__.py": "",
    "transformers/models/llama/__init__.py": "",
    "transformers/models/llama/modeling_llama.py": "",
}
SETUP = (
    'from setuptools import setup\nsetup(name="unipruning", version="1", packages=[], extras_require={"dev": ["a"]})'
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A virtual environment with a torch that sees a GPU, triton and setuptools, and without datasets."""
    venv.create(tmp_path / "own", with_pip=False)
    python = tmp_path / "own" / "bin" / "python"
    packages = Path(
        call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    for name, content in MODULES.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(content)
    there = Path(sysconfig.get_path("purelib"))
    for tool in [there / "_distutils_hack", *there.glob("setuptools*")]:
        (packages / tool.name).symlink_to(tool)
    return python


def test_a_gpu_s_own_environment_is_used_as_it_is(own: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "setup.py").write_text(SETUP)
    script, made = ROOT / "tests" / "environment.sh", tmp_path / "made"
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null"}
    done = call("bash", script, own, made, "2.13.0", cwd=project, **nowhere)
    assert done.returncode == 0, done.stdout
    asked = "import torch, importlib.metadata as m; print(torch.__file__, m.version('unipruning'))"
    found = call(made / "bin" / "python", "-c", asked, cwd=tmp_path).stdout.split()
    assert Path(found[0]).is_relative_to(own.parents[1])
    assert found[1] == "1"

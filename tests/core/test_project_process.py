"""Projection as a process: what a kill leaves behind, and how much memory it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _checkpoints import FakeScores, content, parsed, save_llama
from safetensors.torch import save_file

from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("llama"), shards=True))


CHILD = """
import os, signal, sys
sys.path.insert(0, {here!r})
from _checkpoints import FakeScores
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.projection.project import project
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_cpu.backend import CpuBackend
checkpoint = Checkpoint.open({model!r})
class Deadly(FakeScores):
    calls = 0
    def score(self, name):
        self.calls += 1
        if self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(name)
project(checkpoint, Deadly(checkpoint), [parse_sparsity("60%")], {out!r}, CpuBackend(), overwrite=True)
"""


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwriting"])
def test_a_killed_process_leaves_no_output_and_the_next_one_succeeds(old, llama, tmp_path):
    out = tmp_path / "out"
    if old:
        project(llama, FakeScores(llama, levels=2), parsed("60%"), out, BACKEND)
    before = content(out)
    code = CHILD.format(here=HERE, model=str(llama.folder), out=str(out))
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    assert out.exists() is old
    assert {name: text for name, text in content(out).items() if not name.startswith("unfinished/")} == before
    assert len(list(tmp_path.glob("out/unfinished" if old else "out.partial"))) == 1
    project(llama, FakeScores(llama), parsed("60%"), out, BACKEND, overwrite=True)
    project(llama, FakeScores(llama), parsed("60%"), tmp_path / "fresh", BACKEND)
    assert content(out) == content(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


MEASURE = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from _checkpoints import FakeScores, parsed
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.projection.project import project
from unipruning_cpu.backend import CpuBackend

def kilobytes(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

def run(folder):
    checkpoint = Checkpoint.open(folder)
    targets = tuple(Target(name, info.shape) for name, info in checkpoint.tensors.items())
    out = folder.with_name(folder.name + "-out")
    project(checkpoint, FakeScores(checkpoint, targets), parsed("60%", "60%/global", "2:4"), out, CpuBackend())

few, many = Path({few!r}), Path({many!r})
run(few)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = kilobytes("VmRSS")
run(many)
print(kilobytes("VmHWM") - before)
"""


def test_memory_does_not_grow_with_the_number_of_matrices(tmp_path):
    side = 512
    for count in (2, 64):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        weights = {f"w{i}": torch.full((side, side), float(i), dtype=torch.bfloat16) for i in range(count)}
        save_file(weights, folder / "model.safetensors")
    code = MEASURE.format(here=HERE, few=str(tmp_path / "2"), many=str(tmp_path / "64"))
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    # 64 matrices are 100 MB of weights and scores; the work on one of them takes 20 MB
    assert int(child.stdout) * 1024 < 32 * side * side * 6

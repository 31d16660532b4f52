"""The allocator setting, each time in a process of its own, because it cannot be undone."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from unipruning_cpu.backend import CpuBackend
print(CpuBackend().malloc)
for _ in range(10):  # until the heap has room for it
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * (1 << 24) * 4 // 4096


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.splitlines()
    return said, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_large_temporaries_are_faulted_in_once():
    said, faults = run()
    assert said.startswith("M_MMAP_MAX=0")
    assert faults < PAGES / 50


def test_the_system_setting_can_be_kept():
    said, _ = run(UNIPRUNING_CPU_MALLOC="system")
    assert said.startswith("as the system sets it")

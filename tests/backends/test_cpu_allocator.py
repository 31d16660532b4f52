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
HOLES = """
import torch
from unipruning_cpu.backend import CpuBackend
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
backend = CpuBackend()
blocks = [torch.ones(1 << 18) for _ in range(256)]  # 1 MiB each
kept = blocks[::2]
del blocks
before = resident()
backend.release_memory()
print(before - resident(), float(sum(block.sum() for block in kept)))
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
def test_free_pages_between_blocks_in_use_go_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    given_back, kept = done.stdout.split()
    assert int(given_back) >= 100  # of 128
    assert float(kept) == 128 * 2**18

"""How much memory the host has left: the tightest limit counts, whoever set it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from unipruning_core.models.host_memory import free_host_bytes

MIB = 2**20


def machine(root: Path) -> Path:
    """A machine with 1000 MiB available, and a process that holds 300 MiB of addresses and 200 MiB of data."""
    write(root / "proc/meminfo", f"MemTotal:  9999999 kB\nMemAvailable:  {1000 * 1024} kB\nHugePages_Total:   0\n")
    write(root / "proc/self/status", f"Name:\tpython 3\nVmSize:\t{300 * 1024} kB\nVmData:\t{200 * 1024} kB\n")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, version: int, limit: str, used: int = 0, cache: int = 0) -> None:
    """A control group; ``used`` and ``cache`` in MiB."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), 2: ("memory.max", "memory.current", "")}
    limit_name, used_name, prefix = names[version]
    write(folder / limit_name, f"{limit}\n")
    write(folder / used_name, f"{used * MIB}\n")
    write(folder / "memory.stat", f"anon 5\n{prefix}active_file {cache * MIB}\n{prefix}inactive_file 0\n")


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_without_limits_it_is_what_the_machine_has(tmp_path):
    assert free_host_bytes(machine(tmp_path)) == 1000 * MIB


def test_without_anything_to_read_it_is_unknown(tmp_path):
    assert free_host_bytes(tmp_path) is None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("path", ["/", "/job/step", "/not/mounted/here"])
def test_a_control_group_leaves_its_limit_less_what_is_held_besides_cache(tmp_path, version, path):
    machine(tmp_path)
    mount = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    write(tmp_path / "proc/self/cgroup", f"3:cpu,cpuacct:/x\n{'4:memory' if version == 1 else '0:'}:{path}\n")
    group(mount, version, str(500 * MIB), used=400, cache=50)
    assert free_host_bytes(tmp_path) == 150 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_counts(tmp_path, version):
    machine(tmp_path)
    mount = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    write(tmp_path / "proc/self/cgroup", f"{'4:memory' if version == 1 else '0:'}:/job/step\n")
    group(mount / "job/step", version, "max" if version == 2 else str(2**63 - 4096))
    group(mount / "job", version, str(300 * MIB), used=100)
    group(mount, version, str(900 * MIB), used=100)
    assert free_host_bytes(tmp_path) == 200 * MIB


def test_a_group_that_holds_more_than_its_limit_leaves_nothing(tmp_path):
    machine(tmp_path)
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    group(tmp_path / "sys/fs/cgroup", 2, str(100 * MIB), used=150)
    assert free_host_bytes(tmp_path) == 0


@pytest.mark.parametrize(("limit", "left"), [(resource.RLIMIT_AS, 400), (resource.RLIMIT_DATA, 500)])
def test_a_limit_of_the_process_leaves_what_it_does_not_hold_yet(tmp_path, monkeypatch, limit, left):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (700 * MIB, 0) if kind == limit else (-1, -1))
    assert free_host_bytes(machine(tmp_path)) == left * MIB


def test_this_machine_has_some():
    free = free_host_bytes()
    assert free is not None
    assert 0 < free < 2**50


KEEPS = """
import ctypes
from pathlib import Path
from unipruning_core.models.host_memory import free_host_bytes, give_back_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallopt(-3, 1 << 30)  # as a backend sets it: large blocks come from the heap,
libc.mallopt(-1, 1 << 30)  # and stay there when they are freed
blocks = [libc.malloc(1 << 20) for _ in range(300)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
full = resident()
for block in blocks:
    libc.free(block)
kept = resident()
free_host_bytes()
print(full >> 20, kept >> 20, resident() >> 20)
"""


def test_what_was_freed_is_given_back_before_the_free_memory_is_counted():
    done = subprocess.run([sys.executable, "-c", KEEPS], capture_output=True, text=True, check=True)
    full, kept, left = map(int, done.stdout.split())
    assert kept > full - 50
    assert left < full - 250


HOLES = """
import torch
from unipruning_core.models.host_memory import give_back_freed_memory
from unipruning_cpu.backend import CpuBackend
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
CpuBackend()  # has glibc keep what is freed
blocks = [torch.ones(1 << 18) for _ in range(256)]  # 1 MiB each
kept = blocks[::2]
del blocks
before = resident()
give_back_freed_memory()
print(before - resident(), float(sum(block.sum() for block in kept)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
def test_free_pages_between_blocks_in_use_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    given_back, kept = done.stdout.split()
    assert int(given_back) >= 100  # of 128
    assert float(kept) == 128 * 2**18

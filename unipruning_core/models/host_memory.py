"""The memory that the host still has for this process: of the machine, of its control groups, and of its limits.

psutil knows the first alone, which in a container is that of the whole host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not POSIX
    resource = None  # type: ignore[assignment]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's numbers for mallopt
FREED = 1 << 18  # bytes from which on memory is given back
# of a control group, by version: the file of the limit, that of the use, and what of the use is cache that can be freed
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
}


def return_freed_memory() -> None:
    """Let glibc give memory back to the system as soon as it is freed, whatever a backend has set before."""
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(M_MMAP_MAX, 1 << 16)
        mallopt(M_MMAP_THRESHOLD, FREED)
        mallopt(M_TRIM_THRESHOLD, FREED)


def give_back_freed_memory() -> None:
    """Give back to the system what has been freed and is kept for later."""
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # not POSIX, where a library must be named
        return None


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still take, by the tightest of all limits, or None if none is known."""
    give_back_freed_memory()  # it is free for this process, and the system does not know
    return min([*_of_the_machine(root), *_of_control_groups(root), *_of_the_process(root)], default=None)


def _of_the_machine(root: Path) -> Iterator[int]:
    try:
        yield _fields(root / "proc/meminfo")["MemAvailable"] * 1024
    # not Linux, or a container that hides it
    except (OSError, KeyError, ValueError):
        return


def _of_control_groups(root: Path) -> Iterator[int]:
    """Yield what the process's control group and each group around it leave."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        controllers, path = line.partition(":")[2].split(":", 1)
        if "memory" in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup/memory"
        elif not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        else:
            continue
        # in a container the path may be that on the host, which is not mounted here, but the outermost group is
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            yield from _of_control_group(folder, version)
            if folder == mount:
                break


def _of_control_group(folder: Path, version: int) -> Iterator[int]:
    limit, used, cache = GROUP_FILES[version]
    try:
        most = int((folder / limit).read_text(encoding="utf-8"))
        held = int((folder / used).read_text(encoding="utf-8"))
        fields = _fields(folder / "memory.stat")
    # a group that is not mounted here, or "max", which is no limit
    except (OSError, ValueError):
        return
    yield max(most - held + sum(fields.get(name, 0) for name in cache), 0)


def _of_the_process(root: Path) -> Iterator[int]:
    """Yield what the limits on the process's addresses and on its data leave."""
    if resource is None:
        return
    try:
        held = _fields(root / "proc/self/status")
    except (OSError, ValueError):
        return
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and name in held:
            yield max(most - held[name] * 1024, 0)


def _fields(path: Path) -> dict[str, int]:
    """Return the lines of a file of the kernel that are a name and a whole number."""
    lines = [line.replace(":", " ").split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}

"""Tests under this folder need Triton-Ascend and its compiler; a plain run of the suite does not collect them."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ascendnpuir") else ["test_*.py"]

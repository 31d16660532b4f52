"""Kernels through Triton-Ascend and bishengir-compile to HIVM, where on-chip memory is planned; needs no device."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ascendnpuir
import triton
import triton.backends.ascend.compiler as ascend
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unipruning_kernels.ascend_nm import groups_of_tile, rank_groups
from unipruning_kernels.ascend_step import BLOCK, CHUNK, mirror

HERE = Path(__file__).parent
COMPILER = Path(ascendnpuir.__file__).parent / "bin" / "bishengir-compile"
UB_BYTES = 192 * 1024
# what torch_npu's own launcher asks of the compiler
OPTIONS = (
    "--enable-auto-multi-buffer=True",
    "--enable-auto-bind-sub-block=True",
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)
WIDTH = {"f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2, "i8": 1, "ui8": 1, "i1": 1 / 8, "i64": 8, "ui16": 2}
PLANNED = re.compile(r"pointer_cast\(([^)]*)\)[^:\n]*: memref<((?:\d+x)*)(\w+)[^\n]*address_space<ub>")
CONSTANT = re.compile(r"(%\w+) = arith\.constant (-?\d+) : i64")


@dataclass(frozen=True)
class Compiled:
    """What came of it."""

    planned: bool  # whether HIVM with its on-chip memory planned was written
    ub_bytes: int  # of it: where the last buffer ends
    said: str


def step_case(dtype: str, *, has_gradient: bool, block: int = BLOCK) -> tuple[Any, dict[str, str], dict[str, Any]]:
    pointers = dict.fromkeys(("dual", "r", "p", "q", "threshold"), "*fp32") | dict.fromkeys(
        ("weight", "gradient"), f"*{dtype}"
    )
    scalars = {"height": "i32", "width": "i32", "step_size": "fp32", "phi": "fp32"}
    return mirror, pointers | scalars, {"has_gradient": has_gradient, "chunk": CHUNK, "block": block}


def mask_case(n: int, m: int, block: int | None = None) -> tuple[Any, dict[str, str], dict[str, Any]]:
    constants = {"n": n, "m": m, "width": triton.next_power_of_2(m), "block": block or groups_of_tile(m)}
    return rank_groups, {"score": "*fp32", "mask": "*i8", "groups": "i32"}, constants


def compile_for(target: str, kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> Compiled:
    """The whole way; only the object emitter, which comes with CANN alone, is a stand-in that copies."""
    found: list[Compiled] = []

    def last_stage(linalg: Any, metadata: Any, _: Any) -> bytes:
        text, metadata = ascend._parse_linalg_metadata(linalg, metadata)
        found.append(_bishengir(text, target))
        return b"no object"

    # the stage that would look for a CANN installation
    stages = backends["ascend"].compiler.add_stages.__globals__
    kept = stages["linalg_to_bin_enable_npu_compile_A2_A3"]
    stages["linalg_to_bin_enable_npu_compile_A2_A3"] = last_stage
    try:
        source = ASTSource(fn=kernel, signature=signature, constants=constants)
        triton.compile(source, target=GPUTarget("npu", target, 0))
    finally:
        stages["linalg_to_bin_enable_npu_compile_A2_A3"] = kept
    return found[0]


def _bishengir(text: str, target: str) -> Compiled:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.mlir").write_text(text)
        words = [COMPILER, folder / "kernel.mlir", f"--target={target}", *OPTIONS, f"--save-temps={folder}"]
        done = subprocess.run(
            [*map(str, words), "-o", str(folder / "kernel.o")],
            env={"PATH": f"{HERE}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        hivm = folder / "module.hivm.opt.mlir"
        planned = done.returncode == 0 and hivm.exists()
        return Compiled(planned, _ub_bytes(hivm.read_text()) if planned else 0, done.stderr)


def _ub_bytes(hivm: str) -> int:
    constants = {name: int(value) for name, value in CONSTANT.findall(hivm)}
    ends = [0]
    for places, shape, dtype in PLANNED.findall(hivm):
        size = WIDTH[dtype]
        for length in filter(None, shape.split("x")):
            size *= int(length)
        ends += [constants[place.strip()] + int(size) for place in places.split(",")]
    return max(ends)

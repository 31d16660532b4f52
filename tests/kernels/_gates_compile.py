"""Compile what a GPU would be sent, without a GPU, and read its cost from the machine code."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from _gates_cases import Case, tensors
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unipruning_kernels.triton_launch import Launcher

TARGETS = {f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 90, 100, 120)}
TARGETS["gfx942"] = GPUTarget("hip", "gfx942", 64)
SHAPE = (4096, 11008)
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Launch:
    """One kernel as it would be launched."""

    kernel: Any  # a triton.jit function
    arguments: tuple[Tensor | int | float, ...]
    warps: int
    constants: dict[str, int | bool]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def types(self) -> list[str]:
        return [_typed(argument)[0] for argument in self.arguments]

    @property
    def lanes(self) -> int:
        """Elements of one tile; 0 for a kernel that works on counts."""
        constants = self.constants
        return math.prod(
            (constants.get("block", 0), *(constants.get(name, 1) for name in ("tile_rows", "pieces", "m")))
        )

    def compile(self, target: GPUTarget) -> Any:
        """Specialised as Triton does at a launch: on ones, and on what sixteen divides."""
        signature, values, attributes = {}, dict(self.constants), {}
        for parameter, argument in zip(self.kernel.params, self.arguments, strict=False):
            kind, divisible = _typed(argument)
            if not parameter.do_not_specialize:
                if isinstance(argument, int) and argument == 1:
                    values[parameter.name], kind = 1, "constexpr"
                elif divisible:
                    attributes[(parameter.num,)] = [["tt.divisibility", 16]]
            signature[parameter.name] = kind
        signature |= dict.fromkeys(self.constants, "constexpr")
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=values, attrs=attributes)
        return triton.compile(source, target=target, options={"num_warps": self.warps, "enable_fp_fusion": False})


class Recorder(Launcher):
    """Takes down what would be launched on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.interpreted = False
        self.recorded: list[Launch] = []

    def __call__(
        self,
        kernel: Any,
        programs: int,
        *arguments: Tensor | int | float,
        warps: int = 4,
        **constants: int | bool,
    ) -> None:
        self.recorded.append(Launch(kernel, arguments, warps, constants))


def recorded(case: Case, shape: tuple[int, int] = SHAPE) -> list[Launch]:
    """The launches of a case that compile to different code."""
    recorder = Recorder()
    case.call(recorder, tensors(shape, "meta"))
    return list({(launch.name, str(launch.constants)): launch for launch in recorder.recorded}.values())


def measure(launch: Launch, architecture: str, loops: int) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory, the widths of global accesses and instructions an element."""
    compiled = launch.compile(TARGETS[architecture])
    if architecture.startswith("gfx"):
        return _amd(compiled.asm["amdgcn"])
    usage, code = disassemble(compiled)
    registers, stack, local = (_number(rf"{word}:(\d+)", usage) for word in ("REG", "STACK", "LOCAL"))
    spills = stack + local + len(re.findall(r"\b(?:STL|LDL)\b", code))
    instructions = INSTRUCTION.findall(code)
    measured = {"registers": registers, "spills": spills, "shared": compiled.metadata.shared}
    measured |= {name: _widest(instructions, word) for name, word in (("load bits", "LDG"), ("store bits", "STG"))}
    if lanes := launch.lanes:
        measured["instructions"] = round(_executed(code, loops) * 32 * launch.warps / lanes, 1)
    return measured


def disassemble(compiled: Any) -> tuple[str, str]:
    """What the machine code uses, in the words of cuobjdump, and the code itself."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        return _tool("cuobjdump", "--dump-resource-usage", cubin), _tool("nvdisasm", "-c", cubin)


def _typed(argument: Tensor | int | float) -> tuple[str, bool]:
    if isinstance(argument, Tensor):
        return TYPES[argument.dtype], argument.storage_offset() * argument.itemsize % 16 == 0
    if isinstance(argument, float):
        return "fp32", False
    return ("i32" if argument < 2**31 else "i64"), argument % 16 == 0


def _tool(name: str, *arguments: str | Path) -> str:
    """Run a program that the triton wheel brings along."""
    binary = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the compiler's report has no {pattern!r}")
    return int(found[1])


def _widest(instructions: list[str], word: str) -> int:
    """Bits of the widest global access, as 128 in LDG.E.128."""
    widths = [re.search(r"\.(?:U|S)?(8|16|64|128)\b", name) for name in instructions if name.startswith(word)]
    return max((int(width[1]) if width else 32 for width in widths), default=0)


def _executed(code: str, loops: int) -> int:
    """Instructions of one tile: of the loop that streams over memory, or of all where the tile is loaded once.

    A loop that loads nothing runs ``loops`` rounds inside it.
    """
    lines: list[str] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in code.splitlines():
        if label := re.match(r"\s*\.(L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif (found := INSTRUCTION.search(line)) and found[1] != "NOP":
            lines.append(found[1])
            back = re.search(r"BRA.*`\(\.(L_x_\d+)\)", line)
            if back and labels.get(back[1], len(lines)) < len(lines) - 1:
                spans.append((labels[back[1]], len(lines)))
    streaming = [span for span in spans if any(name.startswith("LDG") for name in lines[slice(*span)])]
    start, end = max(streaming, key=lambda span: span[1] - span[0], default=(0, len(lines)))
    inner = sum(b - a for a, b in spans if start <= a and b <= end and (a, b) not in streaming)
    return end - start + (loops - 1) * inner


def _amd(code: str) -> dict[str, Any]:
    def field(name: str) -> int:
        return _number(rf"\.{name}:\s+(\d+)", code)

    # scalar registers spill into vector registers there, which costs no memory
    spills = field("vgpr_spill_count") + field("private_segment_fixed_size")
    widths = {
        f"{word} bits": max(
            (32 * int(x or 1) for x in re.findall(rf"(?:global|buffer)_{word}_dword(?:x(\d))?\b", code)), default=0
        )
        for word in ("load", "store")
    }
    return {"registers": field("vgpr_count"), "spills": spills, "shared": field("group_segment_fixed_size")} | widths

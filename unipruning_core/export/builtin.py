"""The formats that come with the core, described; what each needs is imported when it is chosen."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

from unipruning_core.backend import Probe
from unipruning_core.exporter import ExporterSpec
from unipruning_core.hookspecs import hookimpl

HERE = "unipruning_core.export"
NO_RUNTIME = "nothing: no runtime skips these zeros"


def _plugin(spec: ExporterSpec) -> SimpleNamespace:
    return SimpleNamespace(unipruning_exporter=hookimpl(lambda: spec))


def _needs_nothing() -> Probe:
    return Probe(True, "needs nothing more")


def _needs(module: str, package: str) -> Probe:
    if find_spec(module) is None:
        return Probe(False, f"it needs the package {package}, which is not installed; pip install {package}")
    return Probe(True, f"the package {package} is installed")


safetensors = _plugin(
    ExporterSpec(
        "safetensors",
        "a copy of the checkpoint without masks and report",
        "nothing: zeros are stored as zeros",
        NO_RUNTIME,
        f"{HERE}.copied:Copied",
        _needs_nothing,
    )
)
compressed_tensors = _plugin(
    ExporterSpec(
        "compressed-tensors",
        "codes of 8 or 4 bits with exact zeros, rounded to the nearest, for vLLM and transformers",
        "codes of fewer bits, but nothing by zeros: the code of a zero takes as many",
        NO_RUNTIME,
        f"{HERE}.compressed:Compressed",
        lambda: _needs("compressed_tensors", "compressed-tensors"),
        ("W8A16", "W4A16", "W8A8", "FP8_DYNAMIC"),
    )
)
gguf = _plugin(
    ExporterSpec(
        "gguf",
        "one file for llama.cpp, of llama, mistral, qwen2 and qwen3",
        "codes of fewer bits, but nothing by zeros: the code of a zero takes as many",
        NO_RUNTIME,
        f"{HERE}.gguf_file:Gguf",
        lambda: _needs("gguf", "gguf"),
        ("auto", "F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "MXFP4", "Q5_1", "Q4_1"),
        frozenset(("Q5_1", "Q4_1")),
    )
)
semi_structured = _plugin(
    ExporterSpec(
        "semi-structured",
        "2:4 as torch.sparse packs it: half of the values, and where they are",
        "the file and the memory of a GPU, in bfloat16 and float16 to 56 % of each matrix that keeps 2:4",
        "linear layers over many tokens at once, on NVIDIA GPUs from compute capability 8.0 on",
        f"{HERE}.semi_structured:SemiStructured",
        _needs_nothing,
    )
)
packed = _plugin(
    ExporterSpec(
        "packed",
        "masks and kept values, from which 'unipruning unpack' makes the same bytes again",
        "the file: a bit a weight, 0.75 for 2:4, and the kept values",
        "nothing: it is for storing and sending, and no runtime reads it",
        f"{HERE}.packed:Packed",
        _needs_nothing,
    )
)

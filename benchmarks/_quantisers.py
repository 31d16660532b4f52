"""The quantisers that ``zeros_kept.py`` measures: each takes a float32 matrix and returns what its codes stand for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GGUF = ("F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "MXFP4", "TQ2_0")
GGML = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS", "NVFP4")


@dataclass(frozen=True)
class Quantiser:
    """One format of one package."""

    package: str
    name: str
    run: Callable[[Tensor], Tensor]


def version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def quantisers() -> list[Quantiser]:
    """Return all, whether or not their packages are installed."""
    return [
        *(Quantiser("gguf", kind, partial(_gguf, kind=kind)) for kind in GGUF),
        *(Quantiser("pywhispercpp", f"ggml {kind}", partial(_ggml, kind=kind)) for kind in GGML),
        Quantiser("bitsandbytes", "NF4", partial(_bitsandbytes, kind="nf4")),
        Quantiser("bitsandbytes", "FP4", partial(_bitsandbytes, kind="fp4")),
        Quantiser("bitsandbytes", "LLM.int8", partial(_bitsandbytes, kind="int8")),
        Quantiser("torchao", "Int8WeightOnly", partial(_torchao, kind="Int8WeightOnlyConfig")),
        Quantiser("torchao", "Float8WeightOnly", partial(_torchao, kind="Float8WeightOnlyConfig")),
        Quantiser("torchao", "IntxWeightOnly int4 g32", partial(_torchao, kind="IntxWeightOnlyConfig")),
        Quantiser("optimum-quanto", "qint8", partial(_quanto, kind="qint8")),
        Quantiser("optimum-quanto", "qint4 g128", partial(_quanto, kind="qint4")),
        *(Quantiser("hqq", f"{bits} bit g64", partial(_hqq, bits=bits)) for bits in (8, 4, 2)),
        Quantiser("hqq", "4 bit g64, optimize=False, round_zero=True", partial(_hqq, bits=4, rounded=True)),
    ]


def _gguf(weight: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    which = GGMLQuantizationType[kind]
    return torch.from_numpy(dequantize(quantize(weight.numpy(), which), which).astype(np.float32))


def _ggml(weight: Tensor, kind: str) -> Tensor:
    """Quantise by the library of ggml inside a package, since gguf itself only reads these types."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    files = distribution("pywhispercpp").files or []
    path = next(file for file in files if file.name.startswith("libggml-base") and ".so" in file.name)
    library = ctypes.CDLL(str(path.locate()))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]  # fmt: skip
    which = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[which]
    rows, columns = weight.shape
    codes = np.zeros((rows, columns // block * size), np.uint8)
    source = np.ascontiguousarray(weight.numpy())
    library.ggml_quantize_chunk(which.value, source.ctypes.data, codes.ctypes.data, 0, rows, columns, None)
    return torch.from_numpy(dequantize(codes, which).astype(np.float32))


def _bitsandbytes(weight: Tensor, kind: str) -> Tensor:
    from bitsandbytes import functional

    if kind == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        return functional.int8_vectorwise_dequant(codes, scales).float()
    codes, state = functional.quantize_4bit(weight, quant_type=kind)
    return functional.dequantize_4bit(codes, state).float()


def _torchao(weight: Tensor, kind: str) -> Tensor:
    from torchao import quantization
    from torchao.quantization.granularity import PerGroup

    options: dict[str, Any] = {}
    if kind == "IntxWeightOnlyConfig":
        options = {"weight_dtype": torch.int4, "granularity": PerGroup(32)}
    model = nn.Sequential(_linear(weight.bfloat16()))
    quantization.quantize_(model, getattr(quantization, kind)(**options))
    return model[0].weight.dequantize().float()


def _quanto(weight: Tensor, kind: str) -> Tensor:
    from optimum import quanto

    model = nn.Sequential(_linear(weight))
    quanto.quantize(model, weights=getattr(quanto, kind))
    quanto.freeze(model)
    return model[0].weight.dequantize().float()


def _hqq(weight: Tensor, bits: int, rounded: bool = False) -> Tensor:
    from hqq.core.quantize import Quantizer

    how = {"optimize": False, "round_zero": True} if rounded else {}
    codes, about = Quantizer.quantize(
        weight, nbits=bits, group_size=64, axis=1, device="cpu", compute_dtype=torch.float32, **how
    )
    return Quantizer.dequantize(codes, about).float()


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer

"""The compiled operations: tensors passed to the C library as pointers, sizes and strides."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from unipruning_cpu.portable import PortableOperations

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SUMS = 16  # as in matrix.c
OCTET = 8  # weights to a byte of a mask
ALONE = 1 << 15  # elements up to which a second thread costs more than it saves


class Matrix(ctypes.Structure):
    """``matrix`` of matrix.c; strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("col_stride", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


POINTER = ctypes.c_void_p
MATRIX = ctypes.POINTER(Matrix)
INT, INT64, FLOAT = ctypes.c_int, ctypes.c_int64, ctypes.c_float
STATE = (MATRIX, MATRIX, MATRIX, POINTER, POINTER, POINTER, FLOAT, FLOAT, FLOAT)  # W, v, U, r, p, q, eta, a, b
SIGNATURES = {
    "accumulate_sumsq": (MATRIX, POINTER, INT64),
    "abs_sums": (MATRIX, INT64, POINTER, INT64, POINTER, POINTER, POINTER),
    "mirror_step": (MATRIX, MATRIX, MATRIX, POINTER, POINTER, POINTER, POINTER, FLOAT, FLOAT, INT64),
    "feedback_scores": (*STATE, MATRIX),
    "mask_weight": (*STATE, FLOAT, POINTER, INT64, INT64, INT64, INT, INT, MATRIX, POINTER),
    "remask_weight": (MATRIX, MATRIX, POINTER, FLOAT, MATRIX),
    "feedback_step": (MATRIX, MATRIX, MATRIX, FLOAT, FLOAT),
    "magnitude_histogram": (MATRIX, INT, INT, POINTER),
    "threshold_mask": (MATRIX, FLOAT, INT64, POINTER),
    "topk_mask": (MATRIX, INT64, POINTER),
    "nm_mask": (MATRIX, INT, INT, POINTER),
    "nm_prox": (MATRIX, FLOAT, INT, INT),
}


class NativeOperations(PortableOperations):
    """Twelve operations in C; ``adamw_step`` stays in torch, whose loops already run at memory bandwidth."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in SIGNATURES.items():
            getattr(library, name).argtypes = arguments

    def accumulate_sumsq(self, x: Tensor, out: Tensor) -> None:
        _check(self._library.accumulate_sumsq(_matrix(x), out.data_ptr(), out.stride(0)))

    def abs_sums(self, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
        # the library reads a factor of the inputs in whole vectors
        inputs, outputs = pad(input_factors, (0, -weight.shape[1] % SUMS)).contiguous(), output_factors.contiguous()
        rows, columns = torch.empty(len(inputs), len(weight)), torch.empty(len(outputs), weight.shape[1])
        _check(
            self._library.abs_sums(
                *(_matrix(weight), len(inputs), inputs.data_ptr(), len(outputs), outputs.data_ptr()),
                *(rows.data_ptr(), columns.data_ptr()),
            )
        )
        return rows, columns

    def mirror_step(
        self,
        dual: Tensor,
        weight: Tensor,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        threshold: Tensor,
        *,
        step_size: float,
        rank: int | None,
        gradient: Tensor | None = None,
        phi: float = 0.0,
    ) -> None:
        r, p, q = r.contiguous(), p.contiguous(), q.contiguous()
        _check(
            self._library.mirror_step(
                _matrix(dual),
                _matrix(weight),
                _optional(gradient),
                r.data_ptr(),
                p.data_ptr(),
                q.data_ptr(),
                threshold.data_ptr(),
                step_size,
                phi,
                -1 if rank is None else rank,
            )
        )

    def feedback_scores(
        self,
        weight: Tensor,
        second: Tensor,
        drift: Tensor | None,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        *,
        learning_rate: float,
        exponent: float,
        pull: float,
    ) -> Tensor:
        r, p, q, score = r.contiguous(), p.contiguous(), q.contiguous(), torch.empty(weight.shape)
        self._library.feedback_scores(
            *(_matrix(weight), _matrix(second), _optional(drift), r.data_ptr(), p.data_ptr(), q.data_ptr()),
            *(learning_rate, exponent, pull, _matrix(score)),
        )
        return score

    def mask_weight(
        self,
        weight: Tensor,
        second: Tensor,
        drift: Tensor | None,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        threshold: Tensor,
        sample: Tensor,
        *,
        learning_rate: float,
        exponent: float,
        pull: float,
        first: int,
        stride: int,
        pattern: tuple[int, int] | None,
    ) -> tuple[Tensor, Tensor]:
        r, p, q, masked = r.contiguous(), p.contiguous(), q.contiguous(), torch.empty(weight.shape, dtype=weight.dtype)
        kept = torch.empty(len(weight), -(-weight.shape[1] // OCTET), dtype=torch.uint8)
        self._library.mask_weight(
            *(_matrix(weight), _matrix(second), _optional(drift), r.data_ptr(), p.data_ptr(), q.data_ptr()),
            *(learning_rate, exponent, pull, _number(threshold), sample.data_ptr(), sample.stride(0)),
            *(first, stride, *(pattern or (0, 0)), _matrix(masked), kept.data_ptr()),
        )
        return masked, kept

    def remask_weight(self, weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float) -> Tensor:
        masked = torch.empty(weight.shape, dtype=weight.dtype)
        kept = kept.contiguous()
        self._library.remask_weight(_matrix(weight), _optional(drift), kept.data_ptr(), learning_rate, _matrix(masked))
        return masked

    def feedback_step(
        self, second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float
    ) -> None:
        self._library.feedback_step(_matrix(second), _optional(drift), _matrix(gradient), _number(rate), decay)

    def magnitude_histogram(self, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
        added = counts.contiguous()
        self._library.magnitude_histogram(_matrix(score), int(prefix), level, added.data_ptr())
        if added is not counts:
            counts.copy_(added)

    def threshold_mask(self, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
        mask = torch.empty(score.shape, dtype=torch.bool)
        _check(self._library.threshold_mask(_matrix(score), _number(threshold), int(ties), mask.data_ptr()))
        return mask

    def topk_mask(self, score: Tensor, keep: int) -> Tensor:
        mask = torch.empty(score.shape, dtype=torch.bool)
        _check(self._library.topk_mask(_matrix(score), keep, mask.data_ptr()))
        return mask

    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        mask = torch.empty(score.shape, dtype=torch.bool)
        _check(self._library.nm_mask(_matrix(score), n, m, mask.data_ptr()))
        return mask

    def nm_prox(self, weight: Tensor, strength: float, n: int, m: int) -> None:
        _check(self._library.nm_prox(_matrix(weight), strength, n, m))


def _matrix(tensor: Tensor) -> Matrix:
    rows, cols = tensor.shape
    threads = 1 if tensor.numel() <= ALONE else torch.get_num_threads()
    return Matrix(tensor.data_ptr(), rows, cols, *tensor.stride(), TYPES[tensor.dtype], threads)


def _number(scalar: Tensor) -> float:
    """Read a 0-D float32 from its memory, without an operator of torch."""
    return ctypes.c_float.from_address(scalar.data_ptr()).value


def _optional(tensor: Tensor | None) -> Matrix | None:
    return None if tensor is None else _matrix(tensor)


def _check(status: int) -> None:
    if status:
        raise MemoryError("the CPU backend could not allocate memory for its counters")

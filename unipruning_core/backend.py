"""The contract between the core and an accelerator: the only file a backend author has to read.

A backend is arithmetic on one matrix at a time and nothing else: it draws no random numbers, reads no files,
logs nothing, keeps no state between calls and talks to no other device.  The core owns randomness, order, names
and storage.  That split is what makes one command give one mask on every kind of hardware.

Rules for every operation

* **Total.**  Every legal input is accepted; where a backend has no kernel it calls
  ``unipruning_kernels.reference.<operation>`` explicitly.
* **Definition.**  ``unipruning_kernels/reference.py`` defines each operation.  Arithmetic is fp32: weights, gradients
  and activations are converted before the first operation on them, as are ``step_size``, ``phi`` and ``strength``.
  Denormals are not flushed to zero.  Any float may be NaN or infinite and follows IEEE 754: a result is NaN, or an
  infinity, exactly where the definition's is.
* **Ties** go to the lower row-major index.  Selection ranks by magnitude: -1.0 ties with 1.0, and NaN with infinity.
* **No host synchronisation.**  Scalars that a device computes stay on the device as 0-D tensors.
* **Layout.**  Any strides.  Outputs are new and contiguous unless marked "in place", which keeps the storage.
  The results of one call may share a storage with each other.

Shapes: ``out`` and ``in`` are the two sides of a linear layer's weight, as ``nn.Linear`` stores it.  "Any float"
is float32, bfloat16 or float16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, dtype

OPERATIONS = (
    "accumulate_sumsq",
    "abs_sums",
    "mirror_step",
    "feedback_scores",
    "mask_weight",
    "remask_weight",
    "feedback_step",
    "magnitude_histogram",
    "threshold_mask",
    "topk_mask",
    "nm_mask",
    "nm_prox",
    "adamw_step",
)

DIGIT_BITS = (11, 10, 10)  # how magnitude_histogram splits the 31 magnitude bits of an fp32, from the top


@dataclass(frozen=True)
class Probe:
    """Whether a backend can run here, and what to tell the user either way."""

    available: bool
    detail: str  # the device's name when available, else the reason it is not, with the remedy


@dataclass(frozen=True)
class BackendSpec:
    """A plugin's description of its backend, read before anything heavy is imported."""

    name: str  # what the user types after --backend
    device_type: str  # torch's name for the device, as in torch.device(...).type
    priority: int  # "auto" picks the available backend with the highest
    target: str  # "package.module:Class", imported only once selected
    probe: Callable[[], Probe]  # must be cheap and must not raise
    optimised: frozenset[str] = frozenset()  # operations with their own implementation; the rest call the reference

    def __post_init__(self) -> None:
        if unknown := self.optimised - set(OPERATIONS):
            raise ValueError(f"backend {self.name!r} declares operations that do not exist: {sorted(unknown)}")


class Backend(ABC):
    """The thirteen operations, which ``conformance`` in ``unipruning_core.testing`` checks."""

    name: ClassVar[str]
    device_type: ClassVar[str]

    def loading_dtype(self, stored: dtype) -> dtype:
        """Return the dtype in which to load a model stored as ``stored``, unless the user names one.

        Not an operation: override it where the device has no fast arithmetic in float32, bfloat16 or float16.
        """
        return stored

    def recorded(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record everything that ``work`` launches, without running it, and return what replays it; None if it cannot.

        Not an operation: override it where the device records graphs.  ``work`` has run before, reads nothing on the
        host, and finds its inputs in the same memory each time.

        Raises:
            RuntimeError: the recording failed, and the device is as it was.
        """
        return None

    @abstractmethod
    def accumulate_sumsq(
        self,
        x: Tensor,  # (tokens, in), any float, activations; tokens may be 0
        out: Tensor,  # (in,), float32, updated in place
    ) -> None:
        r"""Add each input feature's sum of squares: ``out[j] += sum_t x[t, j]**2``."""

    @abstractmethod
    def abs_sums(
        self,
        weight: Tensor,  # (out, in), any float
        input_factors: Tensor,  # (k, in), float32, f >= 0; k may be 0
        output_factors: Tensor,  # (l, out), float32, h >= 0; l may be 0
    ) -> tuple[Tensor, Tensor]:  # float32: rows (k, out), columns (l, in)
        r"""Sum abs(W) with weights, all in one pass: :math:`\sum_j |W_{ij}| f_{kj}` and :math:`\sum_i |W_{ij}| h_{li}`.

        Factors of one give plain sums, of zero and one the sums over a subset, and of a saliency's vectors its mean,
        without the saliency being formed.
        """

    @abstractmethod
    def mirror_step(
        self,
        dual: Tensor,  # (out, in), float32, V; updated in place
        weight: Tensor,  # (out, in), any float, W
        r: Tensor,  # (out,), float32, row factor
        p: Tensor,  # (in,), float32, column factor
        q: Tensor,  # (in,), float32, column offset
        threshold: Tensor,  # 0-D, float32, tau >= 0; updated in place unless rank is None
        *,
        step_size: float,  # kappa
        rank: int | None,  # tau becomes the rank-th smallest |V|, counted from 1; 0 sets it to 0; None keeps it
        gradient: Tensor | None = None,  # (out, in), any float, g
        phi: float = 0.0,  # weight of the gradient term
    ) -> None:
        r"""Take one mirror-descent step of the dual towards the saliency, and update the threshold.

        .. math:: S_{ij} = |W_{ij}| (r_i p_j + q_j) + \varphi (W_{ij} g_{ij})^2, \qquad
                  V \leftarrow V + \kappa \bigl(S - \operatorname{sign}(V) \max(|V| - \tau, 0)\bigr), \qquad
                  \tau \leftarrow |V|_{(\mathrm{rank})}

        S never exists in memory; Gamma is a function of V and tau and is never stored.  The rounding is part of the
        definition, so that V is equal bit for bit on every device: each of the operations written above rounds to
        fp32 once, in the order of ``reference.mirror_step``, with no fused multiply-add.  The new tau is exact.
        """

    @abstractmethod
    def feedback_scores(
        self,
        weight: Tensor,  # (out, in), any float, W; out may be 0
        second: Tensor,  # (out, in), bfloat16, v >= 0
        drift: Tensor | None,  # (out, in), float16, U; None counts as zero
        r: Tensor,  # (out,), float32, row factor
        p: Tensor,  # (in,), float32, column factor
        q: Tensor,  # (in,), float32, column offset
        *,
        learning_rate: float,  # eta
        exponent: float,  # a >= 0
        pull: float,  # b
    ) -> Tensor:  # (out, in), float32
        r"""Score weights by the loss, the local metric and the direction of their drift.

        .. math:: |W|\, v^{1/2}\, \bigl(|W + \eta U| (r_i p_j + q_j)\bigr)^a e^{b U \operatorname{sign}(W)},
                  \qquad 0^0 = 1
        """

    @abstractmethod
    def mask_weight(
        self,
        weight: Tensor,  # W, as in feedback_scores; so are second, drift, r, p, q and the three numbers
        second: Tensor,
        drift: Tensor | None,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        threshold: Tensor,  # 0-D, float32, >= 0, or NaN, which no score reaches
        sample: Tensor,  # (max(0, ceil((out * in - first) / stride)),), float32; written
        *,
        learning_rate: float,
        exponent: float,
        pull: float,
        first: int,  # >= 0; may lie past the last weight
        stride: int,  # >= 1
        pattern: tuple[int, int] | None,  # n and m, as in nm_mask
    ) -> tuple[Tensor, Tensor]:  # (out, in), the weight's dtype; (out, ceil(in / 8)), uint8
        r"""Mask the drifting weight where its score is low, and draw scores for the next threshold, in one pass.

        .. math:: W \leftarrow (W + \eta U)\,[\text{score} \ge \text{threshold}]

        A weight that the pattern keeps has the largest float32 as its score.  ``sample`` gets the scores at row-major
        indices first, first + stride and so on.  The second result is the mask: bit k of byte j, counted from the
        lowest, is set if input 8 j + k is kept, and bits past the last input are zero.  What is not kept is +0.
        """

    @abstractmethod
    def remask_weight(
        self,
        weight: Tensor,  # (out, in), any float, W; out may be 0
        drift: Tensor | None,  # (out, in), float16, U
        kept: Tensor,  # (out, ceil(in / 8)), uint8, contiguous, the mask from mask_weight
        *,
        learning_rate: float,  # eta
    ) -> Tensor:  # (out, in), the weight's dtype
        r"""Make the weight of ``mask_weight`` once more, bit for bit, from its mask."""

    @abstractmethod
    def feedback_step(
        self,
        second: Tensor,  # (out, in), bfloat16, v; updated in place; out may be 0
        drift: Tensor | None,  # (out, in), float16, U; updated in place
        gradient: Tensor,  # (out, in), any float, g
        rate: Tensor,  # 0-D, float32, rho
        *,
        decay: float,  # gamma
    ) -> None:
        r"""Take a step of the second moment and of the drift; a drift with v = 0 stays.

        .. math:: v \leftarrow v + \gamma (g^2 - v), \qquad U \leftarrow U - \rho \frac{g}{v^{1/2}}

        U is updated with v in fp32, before v is rounded to nearest bfloat16.
        """

    @abstractmethod
    def magnitude_histogram(
        self,
        score: Tensor,  # (out, in), float32
        prefix: Tensor,  # 0-D, int32: the digits above this level; ignored at level 0
        level: int,  # 0, 1 or 2: which of the three digits is counted
        counts: Tensor,  # (2**DIGIT_BITS[level],), int64, added to in place
    ) -> None:
        r"""Count a radix digit of abs(score), among the elements whose higher digits equal ``prefix``.

        The 31 magnitude bits of an fp32 order like the magnitude.  Split from the top into digits of 11, 10 and 10
        bits, they give any order statistic exactly in three passes, over all matrices and ranks whose counts add up.
        """

    @abstractmethod
    def threshold_mask(
        self,
        score: Tensor,  # (out, in), float32
        threshold: Tensor,  # 0-D, float32, >= 0
        ties: Tensor,  # 0-D, int64, >= 0
    ) -> Tensor:  # (out, in), bool
        """Keep abs(score) > threshold, and the first ``ties`` of those equal to it by row-major index."""

    @abstractmethod
    def topk_mask(
        self,
        score: Tensor,  # (rows, cols), float32
        keep: int,  # 0 <= keep <= cols
    ) -> Tensor:  # (rows, cols), bool
        """Keep the ``keep`` largest magnitudes of each row."""

    @abstractmethod
    def nm_mask(
        self,
        score: Tensor,  # (out, in), float32
        n: int,  # 1 <= n < m
        m: int,  # 2 <= m <= 32, divides in
    ) -> Tensor:  # (out, in), bool
        """Keep the ``n`` largest magnitudes of every ``m`` consecutive inputs of a row."""

    @abstractmethod
    def nm_prox(
        self,
        weight: Tensor,  # (out, in), any float; updated in place, but for groups that hold NaN or infinity
        strength: float,  # lambda_2 >= 0
        n: int,
        m: int,  # divides in
    ) -> None:
        r"""Take the proximal step of the N:M regulariser on every ``m`` consecutive inputs of a row.

        .. math:: \min_w \tfrac12 \|w - z\|^2 + \lambda_2\, e_{n+1}(|w_1|, \ldots, |w_m|)

        where e is the elementary symmetric polynomial: zero exactly when at most n of the m are non-zero.  For 2:4 it
        is R_2:4 of Kübler et al. (arXiv 2501.18015).  ``reference.nm_prox`` defines which minimiser.
        """

    @abstractmethod
    def adamw_step(
        self,
        weight: Tensor,  # (out, in), any float, W; updated in place
        gradient: Tensor,  # (out, in), any float, g
        first: Tensor,  # (out, in), the weight's dtype, m; updated in place
        second: Tensor,  # (out, in), float32, v; updated in place
        scale: Tensor,  # 0-D, float32, c, the clipping factor
        *,
        step: int,  # t, counted from 1
        learning_rate: float,  # eta
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        r"""Take a step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) without weight decay.

        .. math:: m \leftarrow m + (1-\beta_1) (c g - m), \quad v \leftarrow \beta_2 v + (1-\beta_2) (c g)^2, \quad
                  W \leftarrow W - \eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

        W is updated with m in fp32, before m is rounded to the weight's dtype.
        """

"""What every backend computes: thirteen operations, with the shape and dtype of every argument.

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Operations(ABC):
    """The thirteen operations, which ``conformance`` in ``unipruning_core.testing`` checks."""

    @abstractmethod
    def accumulate_sumsq(self, x: Tensor, out: Tensor) -> None:
        r"""Add each input feature's sum of squares: ``out[j] += sum_t x[t, j]**2``.

        Args:
            x: (tokens, in), any float, activations; tokens may be 0.
            out: (in,), float32, updated in place.
        """

    @abstractmethod
    def abs_sums(self, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
        r"""Sum abs(W) with weights, all in one pass: :math:`\sum_j |W_{ij}| f_{kj}` and :math:`\sum_i |W_{ij}| h_{li}`.

        Factors of one give plain sums, of zero and one the sums over a subset, and of a saliency's vectors its mean,
        without the saliency being formed.

        Args:
            weight: (out, in), any float.
            input_factors: (k, in), float32, f >= 0; k may be 0.
            output_factors: (l, out), float32, h >= 0; l may be 0.

        Returns:
            The sums of the rows, (k, out), and of the columns, (l, in), float32.
        """

    @abstractmethod
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
        r"""Take one mirror-descent step of the dual towards the saliency, and update the threshold.

        .. math:: S_{ij} = |W_{ij}| (r_i p_j + q_j) + \varphi (W_{ij} g_{ij})^2, \qquad
                  V \leftarrow V + \kappa \bigl(S - \operatorname{sign}(V) \max(|V| - \tau, 0)\bigr), \qquad
                  \tau \leftarrow |V|_{(\mathrm{rank})}

        S never exists in memory; Gamma is a function of V and tau and is never stored.  The rounding is part of the
        definition, so that V is equal bit for bit on every device: each of the operations written above rounds to
        fp32 once, in the order of ``reference.mirror_step``, with no fused multiply-add.  The new tau is exact.

        Args:
            dual: (out, in), float32, V; updated in place.
            weight: (out, in), any float, W.
            r: (out,), float32, row factor.
            p: (in,), float32, column factor.
            q: (in,), float32, column offset.
            threshold: 0-D, float32, tau >= 0; updated in place unless rank is None.
            step_size: kappa.
            rank: tau becomes the rank-th smallest abs(V), counted from 1; 0 sets it to 0; None keeps it.
            gradient: (out, in), any float, g.
            phi: weight of the gradient term.
        """

    @abstractmethod
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
        r"""Score weights by the loss, the local metric and the direction of their drift.

        .. math:: |W|\, v^{1/2}\, \bigl(|W + \eta U| (r_i p_j + q_j)\bigr)^a e^{b U \operatorname{sign}(W)},
                  \qquad 0^0 = 1

        Args:
            weight: (out, in), any float, W; out may be 0.
            second: (out, in), bfloat16, v >= 0.
            drift: (out, in), float16, U; None counts as zero.
            r: (out,), float32, row factor.
            p: (in,), float32, column factor.
            q: (in,), float32, column offset.
            learning_rate: eta.
            exponent: a >= 0.
            pull: b.

        Returns:
            The scores, (out, in), float32.
        """

    @abstractmethod
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
        r"""Mask the drifting weight where its score is low, and draw scores for the next threshold, in one pass.

        .. math:: W \leftarrow (W + \eta U)\,[\text{score} \ge \text{threshold}]

        A weight that the pattern keeps has the largest float32 as its score.  ``sample`` gets the scores at row-major
        indices first, first + stride and so on.  The second result is the mask: bit k of byte j, counted from the
        lowest, is set if input 8 j + k is kept, and bits past the last input are zero.  What is not kept is +0.

        Args:
            weight: W, as in ``feedback_scores``; so are second, drift, r, p, q and the three numbers.
            threshold: 0-D, float32, >= 0, or NaN, which no score reaches.
            sample: (max(0, ceil((out * in - first) / stride)),), float32; written.
            first: >= 0; may lie past the last weight.
            stride: >= 1.
            pattern: n and m, as in nm_mask.

        Returns:
            The masked weight, (out, in), in the weight's dtype, and the mask, (out, ceil(in / 8)), uint8.
        """

    @abstractmethod
    def remask_weight(self, weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float) -> Tensor:
        r"""Make the weight of ``mask_weight`` once more, bit for bit, from its mask.

        Args:
            weight: (out, in), any float, W; out may be 0.
            drift: (out, in), float16, U.
            kept: (out, ceil(in / 8)), uint8, contiguous, the mask from mask_weight.
            learning_rate: eta.

        Returns:
            The masked weight, (out, in), in the weight's dtype.
        """

    @abstractmethod
    def feedback_step(
        self, second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float
    ) -> None:
        r"""Take a step of the second moment and of the drift; a drift with v = 0 stays.

        .. math:: v \leftarrow v + \gamma (g^2 - v), \qquad U \leftarrow U - \rho \frac{g}{v^{1/2}}

        U is updated with v in fp32, before v is rounded to nearest bfloat16.

        Args:
            second: (out, in), bfloat16, v; updated in place; out may be 0.
            drift: (out, in), float16, U; updated in place.
            gradient: (out, in), any float, g.
            rate: 0-D, float32, rho.
            decay: gamma.
        """

    @abstractmethod
    def magnitude_histogram(self, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
        r"""Count a radix digit of abs(score), among the elements whose higher digits equal ``prefix``.

        The 31 magnitude bits of an fp32 order like the magnitude.  Split from the top into digits of 11, 10 and 10
        bits, they give any order statistic exactly in three passes, over all matrices and ranks whose counts add up.

        Args:
            score: (out, in), float32.
            prefix: 0-D, int32, the digits above this level; ignored at level 0.
            level: 0, 1 or 2, which of the three digits is counted.
            counts: ``(2**DIGIT_BITS[level],)``, int64, added to in place.
        """

    @abstractmethod
    def threshold_mask(self, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
        """Keep abs(score) > threshold, and the first ``ties`` of those equal to it by row-major index.

        Args:
            score: (out, in), float32.
            threshold: 0-D, float32, >= 0.
            ties: 0-D, int64, >= 0.

        Returns:
            The mask, (out, in), bool.
        """

    @abstractmethod
    def topk_mask(self, score: Tensor, keep: int) -> Tensor:
        """Keep the ``keep`` largest magnitudes of each row.

        Args:
            score: (rows, cols), float32.
            keep: weights of each row, 0 <= keep <= cols.

        Returns:
            The mask, (rows, cols), bool.
        """

    @abstractmethod
    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        """Keep the ``n`` largest magnitudes of every ``m`` consecutive inputs of a row.

        Args:
            score: (out, in), float32.
            n: weights of each group, 1 <= n < m.
            m: 2 <= m <= 32, divides in.

        Returns:
            The mask, (out, in), bool.
        """

    @abstractmethod
    def nm_prox(self, weight: Tensor, strength: float, n: int, m: int) -> None:
        r"""Take the proximal step of the N:M regulariser on every ``m`` consecutive inputs of a row.

        .. math:: \min_w \tfrac12 \|w - z\|^2 + \lambda_2\, e_{n+1}(|w_1|, \ldots, |w_m|)

        where e is the elementary symmetric polynomial: zero exactly when at most n of the m are non-zero.  For 2:4 it
        is R_2:4 of Kübler et al. (arXiv 2501.18015).  ``reference.nm_prox`` defines which minimiser.

        Args:
            weight: (out, in), any float; updated in place, but for groups that hold NaN or infinity.
            strength: lambda_2 >= 0.
            n: weights of a group that may be non-zero, 1 <= n < m.
            m: 2 <= m <= 32, divides in.
        """

    @abstractmethod
    def adamw_step(
        self,
        weight: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        scale: Tensor,
        *,
        step: int,
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        r"""Take a step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) without weight decay.

        .. math:: m \leftarrow m + (1-\beta_1) (c g - m), \quad v \leftarrow \beta_2 v + (1-\beta_2) (c g)^2, \quad
                  W \leftarrow W - \eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

        W is updated with m in fp32, before m is rounded to the weight's dtype.

        Args:
            weight: (out, in), any float, W; updated in place.
            gradient: (out, in), any float, g.
            first: (out, in), the weight's dtype, m; updated in place.
            second: (out, in), float32, v; updated in place.
            scale: 0-D, float32, c, the clipping factor.
            step: t, counted from 1.
            learning_rate: eta.
            betas: beta_1 and beta_2, in [0, 1).
            epsilon: epsilon.
        """

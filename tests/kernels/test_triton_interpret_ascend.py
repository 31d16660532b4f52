"""The Triton-Ascend kernels' numbers, in Triton's interpreter: bit for bit those of the definition."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.testing.inputs import make_score, make_weight
from unipruning_kernels import ascend_nm, ascend_step, reference

pytestmark = [
    pytest.mark.triton_interpret,
    # Triton-Ascend's interpreter is that of an old Triton, which makes loop bounds of arrays with one element
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture(params=[ascend_step.VECTOR_CORES, 2], ids=["all cores", "two cores"])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, each program walks over several tiles even of a small matrix."""
    for module in (ascend_step, ascend_nm):
        monkeypatch.setattr(module, "VECTOR_CORES", request.param)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("shape", [(1, 1), (150, 36), (3, 4100)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "phi"),
    [(torch.bfloat16, 0.0), (torch.bfloat16, 0.5), (torch.float16, 0.5), (torch.float32, 0.5)],
    ids=str,
)
def test_the_dual_moves_as_the_definition_says(
    rng: torch.Generator, shape: tuple[int, int], dtype: torch.dtype, phi: float
) -> None:
    dual, weight, gradient = make_score(rng, shape, "levels"), *(make_weight(rng, shape, dtype) for _ in range(2))
    r, (p, q) = torch.rand(shape[0], generator=rng), torch.rand(2, shape[1], generator=rng).unbind()
    threshold, wanted = torch.tensor(0.25), dual.clone()
    used = {"gradient": gradient, "phi": phi} if phi else {}
    reference.mirror_step(wanted, weight, r, p, q, threshold, step_size=0.1, rank=None, **used)
    ascend_step.move_dual(dual, weight, r, p, q, threshold, step_size=0.1, **used)
    assert torch.equal(dual, wanted)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 5), (4, 8), (8, 16), (31, 32)])
@pytest.mark.parametrize("kind", ["levels", "denormals"])
def test_the_mask_is_that_of_the_definition(rng: torch.Generator, n: int, m: int, kind: str) -> None:
    score = make_score(rng, (37, 5 * m), kind)
    assert torch.equal(ascend_nm.nm_mask(score, n, m), reference.nm_mask(score, n, m))

"""The torch operators that the npu backend is made of: they have kernels for the card, at the shapes of real models."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

Simulated = Callable[..., str]

# the largest matrices of LLaMA-2-7B, LLaMA-2-13B and openPangu-7B, and of the last the one of its shared keys
SHAPES = [(11008, 4096), (13824, 5120), (12800, 4096), (1024, 4096)]
# tensors without memory; chunks are made larger only to make fewer
RUNS = """
import json
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from unipruning_core.backend import OPERATIONS
from unipruning_npu import chunks
from unipruning_npu.backend import NpuBackend

chunks.BOUND <<= 4
backend, (rows, columns) = NpuBackend(), {shape}
used = {{}}

class Record(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # how a tensor without memory is asked for its device
        if func.namespace != "prim":
            used.setdefault(operation, set()).add(func)
        return func(*args, **(kwargs or {{}}))

def made(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="npu")

with FakeTensorMode():
    weight, dual, second = made(rows, columns, dtype=torch.bfloat16), made(rows, columns), made(rows, columns)
    p, r, scalar = made(columns), made(rows), made()
    drift, kept = made(rows, columns, dtype=torch.float16), made(rows, columns // 8, dtype=torch.uint8)
    moment, sample = made(rows, columns, dtype=torch.bfloat16), made(-(-rows * columns // 509))
    state, numbers = (weight, moment, drift, r, p, p), {{"learning_rate": 0.1, "exponent": 0.5, "pull": 0.1}}
    masks = {{"first": 0, "stride": 509, "pattern": (2, 4), **numbers}}
    ties, prefix, counts = made(dtype=torch.int64), made(dtype=torch.int32), made(1024, dtype=torch.int64)
    calls = {{
        "accumulate_sumsq": lambda: backend.accumulate_sumsq(weight, p),
        "abs_sums": lambda: backend.abs_sums(weight, p.expand(2, -1), r[None]),
        "mirror_step": lambda: backend.mirror_step(
            dual, weight, r, p, p, scalar, step_size=0.01, rank=1000, gradient=weight, phi=0.5
        ),
        "feedback_scores": lambda: backend.feedback_scores(*state, **numbers),
        "mask_weight": lambda: backend.mask_weight(*state, scalar, sample, **masks),
        "remask_weight": lambda: backend.remask_weight(weight, drift, kept, learning_rate=0.1),
        "feedback_step": lambda: backend.feedback_step(moment, drift, weight, scalar, decay=0.05),
        "magnitude_histogram": lambda: backend.magnitude_histogram(dual, prefix, 1, counts),
        "threshold_mask": lambda: backend.threshold_mask(dual, scalar, ties),
        "topk_mask": lambda: backend.topk_mask(dual, columns // 2),
        "nm_mask": lambda: backend.nm_mask(dual, 2, 4),
        "nm_prox": lambda: backend.nm_prox(weight, 0.1, 2, 4),
        "adamw_step": lambda: backend.adamw_step(
            *(weight, weight, weight, second, scalar), step=1, learning_rate=0.1, betas=(0.9, 0.999), epsilon=1e-10
        ),
    }}
    assert tuple(calls) == OPERATIONS
    results = {{}}
    for operation, call in calls.items():
        with Record():
            result = call()
        results[operation] = [
            [list(t.shape), str(t.dtype), t.device.type]
            for t in (result if isinstance(result, tuple) else (result,)) if t is not None
        ]

def runs_on(func, key):
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)

functions = set().union(*used.values())
OUT.write_text(json.dumps({{
    "results": results,
    "namespaces": sorted({{func.namespace for func in functions}}),
    "without a kernel": sorted(
        func.name() for func in functions
        if not any(runs_on(func, key) for key in
                   ("PrivateUse1", "CompositeExplicitAutograd", "CompositeImplicitAutograd"))
    ),
    "names": sorted(func.name() for func in functions),
}}))
"""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_operator_has_a_kernel_for_the_card_and_takes_the_shapes_of_real_models(
    simulated: Simulated, shape: tuple[int, int]
) -> None:
    found = json.loads(simulated(RUNS.format(shape=shape)))
    # there is no call of torch_npu's own operators whose schema would have to be held against the wheel
    assert found["namespaces"] == ["aten"]
    assert found["without a kernel"] == []
    rows, columns = shape
    single, mask = "torch.float32", [[[rows, columns], "torch.bool", "npu"]]
    masked = [[rows, columns], "torch.bfloat16", "npu"]
    assert found["results"] == {
        "accumulate_sumsq": [],
        "abs_sums": [[[2, rows], single, "npu"], [[1, columns], single, "npu"]],
        "mirror_step": [],
        "feedback_scores": [[[rows, columns], single, "npu"]],
        "mask_weight": [masked, [[rows, columns // 8], "torch.uint8", "npu"]],
        "remask_weight": [masked],
        "feedback_step": [],
        "magnitude_histogram": [],
        "threshold_mask": mask,
        "topk_mask": mask,
        "nm_mask": mask,
        "nm_prox": [],
        "adamw_step": [],
    }

"""The npu backend on the simulation: its probe, its memory and what it sends to the card."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from calls import GOLDEN

Simulated = Callable[..., str]

PROBE = """
from unipruning_npu import probe
answer = probe()
assert not torch.npu.is_initialized()
OUT.write_text(f"{answer.available}: {answer.detail}")
"""
# peak memory above what was there, without the result, of each operation on a matrix of many chunks
PEAKS = """
import json
from unipruning_npu import chunks
from unipruning_npu.backend import NpuBackend
# a matrix of several chunks even for an operation that holds little
chunks.BOUND >>= 2
backend, (rows, columns) = NpuBackend(), (2048, 2560)
score = torch.rand(rows, columns).npu()
weight, p, r = score.bfloat16(), torch.rand(columns).npu(), torch.rand(rows).npu()
tau, prefix = torch.tensor(0.5).npu(), torch.tensor(3, dtype=torch.int32).npu()
second, drift, sample = weight.clone(), score.half(), torch.empty(weight.numel() // 512).npu()
numbers = {"learning_rate": 0.1, "exponent": 0.5, "pull": 0.1}
masks = {"first": 0, "stride": 512, "pattern": None, **numbers}
state = weight, second, drift, r, p, p
kept = torch.full((rows, columns // 8), 85, dtype=torch.uint8).npu()
calls = {
    "accumulate_sumsq": lambda: backend.accumulate_sumsq(weight, p),
    "abs_sums": lambda: backend.abs_sums(weight, p.expand(8, -1), r.expand(8, -1)),
    "mirror_step": lambda: backend.mirror_step(score, weight, r, p, p, tau, step_size=0.1, rank=9),
    "mirror_step with a gradient": lambda: backend.mirror_step(
        score, weight, r, p, p, tau, step_size=0.1, rank=None, gradient=weight, phi=0.5
    ),
    "feedback_scores": lambda: backend.feedback_scores(*state, **numbers),
    "feedback_scores of float32": lambda: backend.feedback_scores(score, *state[1:], **numbers),
    "mask_weight": lambda: backend.mask_weight(*state, tau, sample, **masks),
    "mask_weight of float32": lambda: backend.mask_weight(score, *state[1:], tau, sample, **masks),
    "mask_weight of no whole bytes": lambda: backend.mask_weight(
        *(part[:, :-1] for part in state[:3]), r, p[:-1], p[:-1], tau, sample, **masks
    ),
    "mask_weight 2:4": lambda: backend.mask_weight(*state, tau, sample, **(masks | {"pattern": (2, 4)})),
    "mask_weight 16:32": lambda: backend.mask_weight(*state, tau, sample, **(masks | {"pattern": (16, 32)})),
    "remask_weight": lambda: backend.remask_weight(weight, drift, kept, learning_rate=0.1),
    "feedback_step": lambda: backend.feedback_step(second, drift, weight, tau, decay=0.05),
    "magnitude_histogram": lambda: backend.magnitude_histogram(
        score, prefix, 1, torch.zeros(1024, dtype=torch.int64).npu()
    ),
    "threshold_mask": lambda: backend.threshold_mask(score, tau, torch.tensor(5).npu()),
    "topk_mask": lambda: backend.topk_mask(score, 100),
    "nm_mask": lambda: backend.nm_mask(score, 2, 4),
    "nm_mask of 32": lambda: backend.nm_mask(score, 16, 32),
    "nm_prox": lambda: backend.nm_prox(weight, 0.1, 2, 4),
}
peaks = {}
for name, call in calls.items():
    torch.npu.synchronize()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    result = call()
    torch.npu.synchronize()
    returned = sum(t.nbytes for t in (result if isinstance(result, tuple) else (result,)) if t is not None)
    peaks[name] = torch.npu.max_memory_allocated() - before - returned
OUT.write_text(json.dumps({name: peak / chunks.BOUND for name, peak in peaks.items()}))
"""


@pytest.mark.parametrize(
    ("soc", "devices", "answer"),
    [
        ("Ascend910B2", "2", "True: 2 Ascend device(s)"),
        ("Ascend910_9391", "1", "True: 1 Ascend device(s)"),
        ("Ascend950", "1", "True: 1 Ascend device(s)"),
        ("Ascend910B2", "0", "False: torch_npu sees no device"),
        ("Ascend910A", "1", "False: torch_npu's chip number 102 is not supported"),
        ("Ascend310P3", "1", "False: torch_npu's chip number 202 is not supported"),
        ("Ascend31P9", "1", "False: torch_npu does not load: Unsupported soc version: Ascend31P9"),
    ],
)
def test_the_probe_knows_the_chips_and_touches_no_device(
    simulated: Simulated, soc: str, devices: str, answer: str
) -> None:
    assert simulated(PROBE, NPUSIM_SOC=soc, NPUSIM_DEVICES=devices).startswith(answer)


def test_the_calls_that_reach_the_card_are_the_golden_ones(simulated: Simulated) -> None:
    measured = json.loads(simulated("import json, calls\nOUT.write_text(json.dumps(calls.measure()))"))
    assert measured == json.loads(GOLDEN.read_text(encoding="utf-8"))
    waiting = [name for name, calls in measured.items() if "copy to host" in calls]
    assert not waiting, "an operation must not wait for the device"


def test_temporaries_stay_within_the_bound(simulated: Simulated) -> None:
    peaks = json.loads(simulated(PEAKS))
    assert {name: peak for name, peak in peaks.items() if peak > 1} == {}


TRAFFIC = """
import json
from calls import trace
from traffic import moved
from unipruning_npu import chunks
from unipruning_npu.backend import NpuBackend

# as a card's cache of 192 MiB is to chunks of 64 MiB, in the small: the matrix is several times the cache
chunks.BOUND = 1 << 20
backend, (rows, columns) = NpuBackend(), (1024, 2048)
dual, p, r = torch.rand(rows, columns).npu(), torch.rand(columns).npu(), torch.rand(rows).npu()
weight, tau, drift = dual.bfloat16(), torch.tensor(0.5).npu(), dual.half()
second, sample = weight.clone(), torch.empty(4096).npu()
kept = torch.full((rows, columns // 8), 85, dtype=torch.uint8).npu()
calls = {
    "mirror_step": lambda: backend.mirror_step(dual, weight, r, p, p, tau, step_size=0.1, rank=9),
    "mirror_step with a gradient": lambda: backend.mirror_step(
        dual, weight, r, p, p, tau, step_size=0.1, rank=9, gradient=second, phi=0.5
    ),
    "mask_weight": lambda: backend.mask_weight(
        *(weight, second, drift, r, p, p, tau, sample),
        **{"learning_rate": 0.1, "exponent": 1.0, "pull": 0.1, "first": 0, "stride": 512, "pattern": None},
    ),
    "remask_weight": lambda: backend.remask_weight(weight, drift, kept, learning_rate=0.1),
    "feedback_step": lambda: backend.feedback_step(second, drift, weight, tau, decay=0.1),
}
OUT.write_text(json.dumps({name: moved(trace(call), 3 << 20) / weight.numel() for name, call in calls.items()}))
"""


def test_the_operations_of_a_search_move_few_bytes_a_weight(simulated: Simulated) -> None:
    bytes_moved = json.loads(simulated(TRAFFIC))
    # operands read once and written once; V three times more for its threshold
    least = {
        "mirror_step": 22,
        "mirror_step with a gradient": 24,
        "mask_weight": 8,
        "remask_weight": 6,
        "feedback_step": 10,
    }
    ratios = {name: moved / least[name] for name, moved in bytes_moved.items()}
    assert {name: ratio for name, ratio in ratios.items() if not 1 <= ratio < 1.4} == {}

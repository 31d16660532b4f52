"""Plans of mixtures of experts: operations of the routed tokens, memory without values, every dtype."""

import pytest
from _mixtures import EXPERTS, save_mixture

from unipruning_core.models.outline import outline
from unipruning_core.tools.plan.trace import trace_sample

TOKENS, BLOCKS, WIDTH, INNER, ROUTED = 64, 2, 32, 24, 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_operations_are_those_of_the_tokens_that_each_expert_gets(tmp_path, dtype):
    found = outline(str(save_mixture(tmp_path / "m")), dtype=dtype)
    attention = 4 * WIDTH * WIDTH + 2 * TOKENS * WIDTH  # four projections, and two products with every token
    experts = ROUTED * 3 * WIDTH * INNER + WIDTH * EXPERTS  # three projections, and the router
    forward = 2 * TOKENS * BLOCKS * (attention + experts)
    assert trace_sample(found, TOKENS, backward=False).flops == forward
    backward = trace_sample(found, TOKENS, backward=True).flops
    assert 2.5 * forward < backward < 3.5 * forward + 6 * TOKENS * WIDTH * 48


def test_the_gradients_of_all_experts_are_not_counted_at_once(tmp_path):
    found = outline(str(save_mixture(tmp_path / "m")), dtype="float32")
    of_experts = 4 * EXPERTS * 3 * WIDTH * INNER
    assert trace_sample(found, 2, backward=True).activations < of_experts

"""What a search sums up of layers that no token reaches, that share an input, or that run twice."""

from collections import OrderedDict

import pytest
import torch
from _checkpoints import save_llama
from _modes import batches, start

from unipruning_core.errors import DataError
from unipruning_core.models.activations import InputSums, norms_of
from unipruning_core.search.reach import NO_TOKEN
from unipruning_cpu.backend import CpuBackend


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled", "feedback"])
@pytest.mark.parametrize("missing", [1, 14])
def test_a_layer_that_no_token_reaches_stays_dense_unless_most_do(tmp_path, mode, missing):
    search = start(save_llama(tmp_path / "m", dtype=torch.float32), mode=mode, metric="wanda")
    for layer in search.layers[:missing]:
        # a hook that never fires is what a layer that never runs looks like
        layer.module.register_forward_pre_hook = lambda *_, **__: torch.utils.hooks.RemovableHandle(OrderedDict())
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
    first = search.layers[0]
    if missing == 14:
        with pytest.raises(DataError, match=f"14 of 14 target layers received no token.*{first.name}"):
            list(search.outcomes())
    else:
        assert search.reach().dense == {0: NO_TOKEN}
        assert list(search.reach().note()) == [f"left dense: {first.name} ({NO_TOKEN})"]
        assert [outcome.target for outcome in search.outcomes()] == [layer.target for layer in search.layers[1:]]


class Counting(CpuBackend):
    """A backend that counts the inputs it sums up."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def accumulate_sumsq(self, x, out):
        self.calls += 1
        super().accumulate_sumsq(x, out)


def seen_by_hooks(search):
    """Keep every input of every layer, by position."""
    seen = [[] for _ in search.layers]
    for inputs, layer in zip(seen, search.layers, strict=True):
        layer.module.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].flatten(0, -2)))
    return seen


def test_layers_that_read_one_tensor_share_one_sum(tmp_path):
    search = start(save_llama(tmp_path / "m", dtype=torch.float32), mode="frozen")
    seen, backend = seen_by_hooks(search), Counting()
    inputs = InputSums(search.layers, backend)
    for ids in batches()[:2]:  # the second forgets the first
        with torch.no_grad(), inputs.watched():
            search.model(ids)
    assert backend.calls == 2 * 2 * 4  # q k v, o, gate up, down
    norms = norms_of(inputs.sums, inputs.counts)
    for position, xs in enumerate(seen):
        torch.testing.assert_close(norms[position, : xs[1].shape[1]], xs[1].square().mean(0).sqrt())
        assert not norms[position, xs[1].shape[1] :].any()


def test_a_layer_that_runs_twice_in_a_pass_sums_up_both_inputs(tmp_path):
    search = start(save_llama(tmp_path / "m", dtype=torch.float32), mode="frozen")
    seen, inputs = seen_by_hooks(search), InputSums(search.layers, Counting())
    with torch.no_grad(), inputs.watched():
        for ids in batches()[:3]:
            search.model(ids)
    assert inputs.counts.flatten().tolist() == [3 * 16] * 14
    for position, xs in enumerate(seen):
        torch.testing.assert_close(inputs.sums[position, : xs[0].shape[1]], torch.cat(xs).square().sum(0))

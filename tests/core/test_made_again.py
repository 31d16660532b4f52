"""Results that a backward pass makes again from what their operators saved."""

import pytest
import torch
from _modes import batches, start
from torch.nn.functional import gelu, linear, silu

from unipruning_core.models.made_again import Again, made_again
from unipruning_core.models.substituted_weights import substituted_weights


def leaf(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def gated(x, gate, up, down, activation=silu):
    return linear(activation(linear(x, gate)) * linear(x, up), down)


def held(again=True):
    """Hooks that count the bytes of what is kept, a storage once."""
    kept = {}

    def pack(saved):
        if again and (instead := made_again(saved)) is not None:
            return instead
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved.detach()

    def unpack(packed):
        return packed.remade() if isinstance(packed, Again) else packed

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack), kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "activation", [silu, gelu, lambda x: gelu(x, approximate="tanh")], ids=["silu", "gelu", "gelu of tanh"]
)
def test_a_gated_product_gives_the_same_gradients_and_keeps_two_results_less(activation, dtype):
    parameters = [leaf(24, 8), leaf(24, 8), leaf(8, 24)]
    found = []
    for again in (False, True):
        x, *weights = (tensor.detach().to(dtype).requires_grad_() for tensor in (leaf(2, 5, 8), *parameters))
        hooks, kept = held(again)
        with hooks:
            out = gated(x, *weights, activation)
        out.square().sum().backward()
        found.append(([tensor.grad for tensor in (x, *weights)], sum(kept.values())))
    (expected, most), (grads, least) = found
    assert most - least == 2 * 2 * 5 * 24 * dtype.itemsize
    for one, other in zip(expected, grads, strict=True):
        assert torch.equal(one, other)


def test_what_did_not_save_enough_is_kept():
    x, scale = leaf(4, 6), torch.ones(6)
    assert made_again(x) is None
    assert made_again(x.detach()) is None
    assert made_again(x * scale) is None  # the scale has no gradient, so x was not saved
    assert made_again(x * 2.0) is None
    assert made_again(x + x) is None
    assert made_again((x * x).t()) is None
    assert made_again((x * x)[1:]) is None
    assert isinstance(made_again((x * x).view(2, 12)), Again)


def test_a_product_of_two_shapes_is_made_in_the_shape_that_was_saved():
    x, column = leaf(4, 6), leaf(4, 1)
    product = x * column
    assert torch.equal(made_again(product.view(24)).remade(), product.detach().view(24))


def test_a_search_keeps_less_and_finds_the_same(folder, monkeypatch):
    found = []
    for again in (True, False):
        if not again:
            monkeypatch.setattr("unipruning_core.models.substituted_weights.made_again", lambda _: None)
        search = start(folder)
        losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
        found.append((losses, [outcome.dual for outcome in search.outcomes()]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, other)


def test_substituted_weights_make_the_products_of_a_gated_block_again(single, monkeypatch):
    search, asked = start(single), []

    def noted(saved):
        again = made_again(saved)
        asked.append(again is not None)
        return again

    def half(position):
        return search.layers[position].parameter.data * 0.5

    monkeypatch.setattr("unipruning_core.models.substituted_weights.made_again", noted)
    with substituted_weights(search.layers, half, half):
        search.model(input_ids=batches()[0]).logits.sum().backward()
    assert sum(asked) == 2 * search.model.config.num_hidden_layers

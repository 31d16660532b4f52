"""What autograd saves for a backward pass is freed where none follows."""

import gc
import weakref

import pytest
import torch
from _modes import batches, start

from unipruning_core.models.substituted_weights import substituted_weights
from unipruning_core.search.activation_memory import activation_bytes


@pytest.fixture
def search(folder):
    return start(folder, mode="feedback")


@pytest.fixture
def outputs(search):
    """References to what the modules return."""
    references = []

    def note(_module, _inputs, output):
        if isinstance(output, torch.Tensor):
            references.append(weakref.ref(output))

    for module in search.model.modules():
        module.register_forward_hook(note)
    return references


def freed(outputs):
    gc.collect()
    return len(outputs) > 20 and not any(output() is not None for output in outputs)


def test_an_estimate_of_activations_keeps_none(search, outputs):
    assert activation_bytes(search.model, batches()[0]) > 0
    assert freed(outputs)


def test_a_forward_with_substituted_weights_whose_loss_is_dropped_keeps_none(search, outputs):
    def half(position):
        return search.layers[position].parameter.data * 0.5

    with substituted_weights(search.layers, half, half):
        loss = search.model(input_ids=batches()[0]).logits.sum()
    del loss
    assert freed(outputs)


def test_a_sample_of_a_search_begins_with_new_gradient_accumulators(search):
    """A recording takes another stream, on which a node of before would not be."""
    parameter = search.layers[0].parameter
    activation_bytes(search.model, batches()[0])
    search.step(0, batches()[0])
    node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
    node.metadata["seen"] = True
    del node
    assert "seen" not in parameter.view_as(parameter).grad_fn.next_functions[0][0].metadata

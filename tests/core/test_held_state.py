"""Weights held in 16 bits where these have all their values, in a search that owns its model."""

import pytest
import torch
from _checkpoints import save_llama
from _modes import batches, chosen
from transformers import AutoModelForCausalLM

from unipruning_core.models.targets import find_targets
from unipruning_core.search.held_state import exactly_narrowed
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend


def started(folder, change=lambda weight: weight):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers, _ = find_targets(model, Checkpoint.open(folder))
    for layer in layers:
        layer.parameter.data = change(layer.parameter.data)
    return chosen().start(model, layers, CpuBackend(), 6)


def in_bfloat16(weight):
    return weight.bfloat16().float()


def bytes_of_weights(search):
    held = [*search.state.originals, *(layer.parameter.data for layer in search.layers)]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}.values())


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_take_half_and_give_the_same_numbers(folder, kind, recomputes):
    found = []
    for owned in (False, True):
        search = started(folder, lambda weight: weight.to(kind).float())
        search.recomputes = recomputes
        before = bytes_of_weights(search)
        if owned:
            search.own_model()
            assert all(weight.dtype == kind for weight in search.state.originals)
            # a stand-in of four bytes is left of each matrix
            assert bytes_of_weights(search) == before // 2 + 4 * len(search.layers)
        losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
        found.append((losses, [outcome.dual for outcome in search.outcomes()]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, other)


def test_a_weight_with_a_value_that_16_bits_lack_stays_as_it_is(folder):
    search = started(folder, in_bfloat16)
    odd = search.layers[3]
    odd.parameter.data.view(-1)[7] = 1 + 2**-20
    before = odd.parameter.data
    search.own_model()
    narrow = [weight.dtype == torch.bfloat16 for weight in search.state.originals]
    assert narrow == [position != 3 for position in range(len(search.layers))]
    assert odd.parameter.data.data_ptr() == before.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_only_float32_is_narrowed(dtype):
    assert exactly_narrowed(torch.ones(2, 2, dtype=dtype)) is None


def test_a_zero_keeps_its_sign():
    narrowed = exactly_narrowed(torch.tensor([[-0.0, 0.0]]))
    assert torch.signbit(narrowed).tolist() == [[True, False]]


def test_the_experts_of_one_tensor_stay_where_they_are(mixture):
    search = started(mixture / "model")
    stacks = [position for position, layer in enumerate(search.layers) if layer.stack is not None]
    assert stacks
    search.own_model()
    assert all(search.state.originals[position].dtype == torch.float32 for position in stacks)


def test_a_model_that_the_user_holds_keeps_its_weights(tmp_path, home):
    from transformers import AutoTokenizer

    import unipruning

    folder = save_llama(tmp_path / "model", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    unipruning.search(model, tokenizer=tokenizer, data=str(home / "text.txt"), samples=2, seq_len=16)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name

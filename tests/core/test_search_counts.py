"""What a sample asks of torch besides the model's own work: few operators a matrix, and one list for the host."""

import pytest
import torch
from _checkpoints import save_llama
from _modes import batches, start

from unipruning_core.models.one_sequence import one_sequence
from unipruning_core.testing.tally import Tally


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "m", dtype=torch.float32, layers=3)  # 21 matrices


def of_the_model(search, ids, *, backward):
    """The operators of a plain sample."""
    with Tally() as tally, torch.enable_grad() if backward else torch.no_grad():
        if backward:
            search.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        else:
            search.model.model(input_ids=ids, use_cache=False)
    search.model.zero_grad()
    return tally


def of_a_sample(search, settled=3):
    """The operators of a sample, once the first ones have set everything up."""
    data = batches()
    for sample in range(settled):
        search.step(sample, data[sample])
    with Tally() as tally:
        search.step(settled, data[settled])
    return tally


@pytest.mark.parametrize(("mode", "most"), [("feedback", 1.95), ("frozen", 0.5), ("drift", 18.0)])
def test_a_sample_calls_few_operators_besides_the_models_own(folder, mode, most):
    search = start(folder, mode=mode, metric="wanda")
    own = of_the_model(search, batches()[0], backward=mode != "frozen")
    beside = of_a_sample(search).operators - own.operators
    assert len(search.layers) == 21
    assert sum(beside.values()) / 21 <= most, beside


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_a_sample_reads_its_loss_and_threshold_at_once_and_nothing_else(folder, mode):
    """They come to the host in one list, which no operator shows."""
    search = start(folder, mode=mode, metric="wanda")
    assert of_the_model(search, batches()[0], backward=True).host_reads == 1, "transformers looks for packed sequences"
    assert of_a_sample(search).host_reads == 0


def test_a_forward_over_one_sequence_gives_the_same_and_forms_no_mask_even_while_recorded(folder, monkeypatch):
    search = start(folder, mode="frozen", metric="wanda")
    ids = batches()[0]
    with torch.no_grad():
        plain = search.model(input_ids=ids, use_cache=False).logits
        monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)
        with one_sequence(), Tally() as tally:
            recorded = search.model(input_ids=ids, use_cache=False).logits
        with Tally() as usual:
            search.model(input_ids=ids, use_cache=False)
    assert torch.equal(recorded, plain)
    assert tally.host_reads == 0
    assert tally.operators["_scaled_dot_product_flash_attention_for_cpu"] == 3
    assert (usual.operators - tally.operators).total() > 0, "otherwise this is no longer needed"

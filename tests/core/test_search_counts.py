"""What a sample asks of torch besides the model's own work: few operators a matrix, and one value for the host."""

import pytest
import torch
from _checkpoints import save_llama
from _modes import batches, start

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


@pytest.mark.parametrize(("mode", "most"), [("feedback", 1.6), ("frozen", 0.5), ("drift", 40.0)])
def test_a_sample_calls_few_operators_besides_the_models_own(folder, mode, most):
    search = start(folder, mode=mode, metric="wanda")
    own = of_the_model(search, batches()[0], backward=mode != "frozen")
    beside = of_a_sample(search).operators - own.operators
    assert len(search.layers) == 21
    assert sum(beside.values()) / 21 <= most, beside


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_a_sample_reads_one_value_on_the_host(folder, mode):
    search = start(folder, mode=mode, metric="wanda")
    own = of_the_model(search, batches()[0], backward=True)
    assert of_a_sample(search).host_reads - own.host_reads == 1

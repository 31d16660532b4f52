"""How ranks find each other when a launcher starts them anew, and what a failed exchange between them is called."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from unipruning_core.distributed.meeting import launcher_store, meet
from unipruning_core.distributed.world import World, join
from unipruning_core.errors import CheckpointError, ConfigError, RanksError

LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.2)


def met(store, size):
    """The stores of all ranks of one attempt."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: meet(store, rank, size, LONG), range(size)))


def test_an_attempt_sees_nothing_of_the_one_before():
    launchers = dist.HashStore()
    for attempt in (b"first", b"second", b"third"):
        stores = met(launchers, 3)
        assert not any(store.check(["address"]) for store in stores)
        stores[0].set("address", attempt)
        assert [store.get("address") for store in stores] == [attempt] * 3


@pytest.mark.parametrize(("rank", "named"), [(0, "rank 1, 2"), (1, "rank 0")])
def test_a_rank_that_does_not_come_is_named(rank, named):
    launchers = dist.HashStore()
    met(launchers, 3)
    with pytest.raises(RanksError, match=f"^{named} did not come within 0 seconds; look at what it printed last"):
        meet(launchers, rank, 3, SHORT)


def test_a_rank_that_finds_nobody_says_so_after_the_time_it_was_given(monkeypatch):
    with socket.socket() as taken:  # bound and never listened to
        taken.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "1", "WORLD_SIZE": "2"}
        for name, value in where.items():
            monkeypatch.setenv(name, value)
        began = time.monotonic()
        with pytest.raises(RanksError, match=rf"^rank 1 found no rank 0 at 127\.0\.0\.1:{where['MASTER_PORT']} within"):
            launcher_store(1, 2, timedelta(seconds=8))
    assert 3 < time.monotonic() - began < 14


def raise_as_of_a_model(message):
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        raise CheckpointError("model 'm' failed in 'layers.0'; check that it runs") from error


def test_an_exchange_that_fails_in_a_pass_is_not_the_fault_of_the_model():
    message = "Read error [127.0.0.1]:43663: Connection reset by peer"
    with (
        pytest.raises(RanksError, match=r"^rank 1 stops, since .* \(Read error .*reset by peer\)$"),
        World(1, 2).watched(),
    ):
        raise_as_of_a_model(message)


def test_what_is_the_fault_of_the_model_stays_so():
    with pytest.raises(CheckpointError, match=r"failed in 'layers\.0'"), World(1, 2).watched():
        raise_as_of_a_model("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "one", "RANK must be a whole number, not 'one'"),
        ("UNIPRUNING_RANK_TIMEOUT", "soon", "UNIPRUNING_RANK_TIMEOUT must be a whole number, not 'soon'"),
        ("MASTER_PORT", "", "MASTER_PORT not set"),
    ],
)
def test_variables_that_no_launcher_sets_are_one_sentence(monkeypatch, name, value, said):
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for variable, text in {**given, name: value}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=said):
        join("cpu")

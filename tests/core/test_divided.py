"""Loading a model whose parts are divided."""

from __future__ import annotations

import gc
import weakref

import torch.distributed.fsdp as fsdp
from torch.distributed.tensor import DTensor

from unipruning_core.cli.main import main


def test_the_values_of_a_block_are_let_go_before_the_next_is_loaded(home, tmp_path, monkeypatch):
    real, whole, alive = fsdp.fully_shard, [], []

    def fully_shard(unit, **options):
        gc.collect()
        alive.append(sum(known() is not None for known in whole))
        whole.extend(weakref.ref(part) for part in unit.parameters() if not isinstance(part, DTensor))
        return real(unit, **options)

    monkeypatch.setattr(fsdp, "fully_shard", fully_shard)
    words = ["search", home / "model", "--data", home / "text.txt", "--out", tmp_path / "run", "--offload", "disk"]
    assert main([*map(str, words), "--backend", "cpu", "--mode", "frozen", "--samples", "1", "--seq-len", "8"]) == 0
    assert len(whole) > len(alive) > 1
    assert set(alive) == {0}

"""The measurement of 2:4: on a CPU, with dense weights in place of packed ones, and with wrong ones."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import semi_structured

    monkeypatch.setattr(semi_structured, "SHAPES", [(64, 128), (32, 64)])
    monkeypatch.setattr(semi_structured, "TOKENS", [1, 8])
    return semi_structured


def test_every_shape_has_a_row_for_each_number_of_tokens(script, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: given.append(weight) or weight)
    script.main(["--device", "cpu", "--seconds", "0.001"])
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["| 64 x 128", "1"], ["| 64 x 128", "8"], ["| 32 x 64", "1"], ["| 32 x 64", "8"]]
    assert all(((weight.view(-1, 4) != 0).sum(1) == 2).all() for weight in given)


def test_a_wrong_result_is_not_timed(script, monkeypatch):
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight * 1.1)
    with pytest.raises(SystemExit, match=r"\(64, 128\) at 1 tokens: 2:4 is 0.1 of the norm away from dense"):
        script.main(["--device", "cpu", "--seconds", "0.001"])


def test_a_pruned_model_without_its_half_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--pruned", "x"])
    assert "--pruned and --half are of one model; pass both" in capsys.readouterr().err

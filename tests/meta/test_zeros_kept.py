"""The table of formats that keep zeros: what this environment can measure is what the page says."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "after-pruning.md"
VERSION = re.compile(r"(?<=^\| )([\w-]+) [\w.]+")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import zeros_kept

    return zeros_kept


def without_version(line: str) -> str:
    return VERSION.sub(r"\1", line)


def only_gguf(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = script.version
    monkeypatch.setattr(script, "version", lambda package: installed(package) if package == "gguf" else None)


@pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf")
def test_every_row_that_can_be_measured_here_is_on_the_page(script, monkeypatch, capsys):
    only_gguf(script, monkeypatch)
    script.main([])
    printed = capsys.readouterr()
    page = {without_version(line) for line in PAGE.read_text(encoding="utf-8").splitlines()}
    rows = [without_version(line) for line in printed.out.splitlines()]
    assert len(rows) == 2 + 9
    assert [row for row in rows if row not in page] == []
    # what is not measured is said
    assert "left out: NF4: bitsandbytes is not installed" in printed.err.splitlines()


def test_a_quantiser_that_fails_is_named_and_ends_nothing(script, monkeypatch, capsys):
    def broken(weight):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(script, "quantisers", lambda: [script.Quantiser("torch", "broken", broken)])
    script.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == []
    assert report["left_out"][0].endswith(": RuntimeError: no kernel")


def test_what_is_lost_is_counted(script, monkeypatch):
    shifted = script.Quantiser("torch", "shift", lambda weight: weight + 0.01)
    found = script.measure(shifted, "1")
    assert (found.lost, found.rounded, found.dead_row) == (1.0, 0.0, "not zeros")
    assert found.largest == pytest.approx(0.5)
    cut = script.measure(script.Quantiser("torch", "cut", lambda weight: weight * 0), "1")
    assert (cut.lost, cut.largest, cut.rounded, cut.dead_row) == (0.0, 0.0, 1.0, "zeros")
    dead = script.measure(script.Quantiser("torch", "scale", lambda w: w / w.abs().amax(1, True)), "1")
    assert (dead.lost, dead.dead_row) == (0.0, "NaN")


def test_the_page_names_the_script_and_its_formats_once(script):
    text = PAGE.read_text(encoding="utf-8")
    assert "benchmarks/zeros_kept.py" in text
    for quantiser in script.quantisers():
        assert len(re.findall(rf"^\| {quantiser.package} [\w.]+ \| {re.escape(quantiser.name)} \|", text, re.M)) == 1

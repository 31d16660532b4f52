"""Extensions of torch: one that fails is told apart from torch, and hidden from whoever would import it unasked."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from unipruning_core import extensions
from unipruning_core.cli.main import main
from unipruning_core.tools.doctor import examine

BROKEN = 'try:\n    import libvendor\nexcept ImportError as error:\n    raise RuntimeError("long\\nstory") from error\n'


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Two packages that torch would import: one works, and one does not."""
    (tmp_path / "works.py").write_text("calls = []\ndef load():\n    calls.append(1)\n")
    (tmp_path / "fails.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints(EntryPoint(name, f"{name}:load", extensions.GROUP) for name in ("fails", "works"))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
    monkeypatch.setenv(extensions.AUTOLOAD_ENV, "1")
    yield
    for name in ("works", "fails"):
        sys.modules.pop(name, None)


def test_each_extension_is_loaded_as_torch_would_and_the_broken_one_named(installed):
    assert extensions.load_extensions() == {"fails": "No module named 'libvendor'"}
    assert sys.modules["works"].calls == [1]
    assert os.environ[extensions.AUTOLOAD_ENV] == "0"


def test_no_extension_is_loaded_where_torch_would_load_none(installed, monkeypatch):
    monkeypatch.setenv(extensions.AUTOLOAD_ENV, "0")
    assert extensions.load_extensions() == {}
    assert "works" not in sys.modules


def test_where_none_fails_the_setting_stays(installed, monkeypatch):
    points = EntryPoints([EntryPoint("works", "works:load", extensions.GROUP)])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    assert extensions.load_extensions() == {}
    assert os.environ[extensions.AUTOLOAD_ENV] == "1"


def test_a_broken_extension_is_hidden_from_those_who_look_for_it(installed):
    extensions.hide_broken_extensions()
    assert importlib.util.find_spec("fails") is None
    assert importlib.util.find_spec("works") is not None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fails")


def test_the_listing_says_which_extension_stops_every_command(installed, capsys):
    assert main(["backends"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "torch's device extension fails (No module named 'libvendor')" in last
    assert last.endswith("set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to run without it")


def test_the_doctor_does_not_call_such_a_machine_well(installed, monkeypatch):
    monkeypatch.setattr("unipruning_core.tools.doctor.conformance", lambda _: iter(()))
    (check,) = (check for check in examine(extensions.load_extensions()).checks if check.ok is False)
    assert check.name == "torch with fails"
    assert "set TORCH_DEVICE_BACKEND_AUTOLOAD=0" in check.detail

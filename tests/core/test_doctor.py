"""The doctor: finds what is wrong, says so without naming anyone, and is not taken down by it."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import pytest

from unipruning_core.backend import OPERATIONS, Probe
from unipruning_core.cli.main import main
from unipruning_core.registry import Catalogue
from unipruning_core.testing import conformance
from unipruning_core.testing.inputs import FLOATS
from unipruning_core.tools import doctor
from unipruning_core.tools.doctor import Check

WELL = [Check("vectors cpu", True, "3 pass in 1 s")]


@pytest.fixture
def quick(monkeypatch):
    """A doctor that takes the conformance vectors as given."""
    monkeypatch.setattr(doctor, "conformance", lambda _: iter(WELL))


def test_the_vectors_of_a_right_backend_pass(monkeypatch):
    monkeypatch.setattr(doctor, "VECTORS", "masks_of_the_reference or manifest")
    (check,) = doctor.conformance(["cpu"])
    assert (check.name, check.ok) == ("vectors cpu", True)
    # the manifest's checks are three, one an operation and one a dtype
    assert check.detail.startswith(f"{len(OPERATIONS) + len(FLOATS) + 4} pass")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_vectors_hold_every_operation_to_the_reference(operation):
    chosen = [name for name in dir(conformance) if any(word in name for word in doctor.VECTORS.split(" or "))]
    assert [name for name in chosen if name.startswith(f"test_{operation}_")]


def child(program):
    """Words that run ``program`` with the file for the results as its last argument."""
    return [sys.executable, "-c", program]


WRONG = """
import sys, pathlib
pathlib.Path(sys.argv[-1].partition("=")[2]).write_text(
    '<testsuites><testsuite tests="5" failures="1" errors="1" time="2.0"><testcase name="fine"/>'
    '<testcase name="nm_mask ties"><failure/></testcase></testsuite></testsuites>'
)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("program", "longest", "says"),
    [
        (WRONG, 60.0, "2 of 5 fail, the first is nm_mask ties; see unipruning conform --backend cpu"),
        ("import sys; sys.exit('no driver in /opt/driver.so')", 60.0, "before any result: no driver in"),
        ("import os; os.abort()", 60.0, "exited with -6 before any result: no output"),
        ("import time; time.sleep(60)", 1.0, "timed out after"),
    ],
    ids=["wrong", "refused", "crashed", "hangs"],
)
def test_vectors_that_fail_are_told_however_they_do(monkeypatch, program, longest, says):
    monkeypatch.setattr(doctor, "LONGEST", longest)
    plain = doctor.subprocess.run
    monkeypatch.setattr(doctor.subprocess, "run", lambda words, **o: plain([*child(program), words[-1]], **o))
    (check,) = doctor.conformance(["cpu"])
    assert check.ok is False
    assert says in check.detail


def test_without_pytest_the_vectors_are_said_not_to_have_run_and_all_is_well(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "vectors" in line)
    assert re.fullmatch(r"- +vectors +not run: they need pytest, which is not installed; pip install pytest", line)


def test_a_machine_on_which_all_is_well_exits_with_0_and_leaves_a_report(quick, tmp_path, capsys):
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert (report["schema"], report["ok"]) == ("unipruning-doctor-1", True)
    names = {check["name"] for check in report["checks"]}
    assert {"python", "torch", "accelerator", "compiler", "memory", "disk", "model cache", "backend cpu"} <= names
    assert all(check["detail"] for check in report["checks"])


def test_wrong_vectors_make_the_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "conformance", lambda _: iter([Check("vectors cpu", False, "2 of 5 fail")]))
    assert main(["doctor"]) == 1
    assert "FAIL vectors cpu" in capsys.readouterr().out


def test_a_machine_on_which_no_backend_runs_is_not_well(quick, monkeypatch):
    monkeypatch.setattr(Catalogue, "probe", lambda *_: Probe(False, "no driver"))
    report = doctor.examine()
    assert not report.ok
    assert "backends" in {check.name for check in report.checks if check.ok is False}


def test_a_plugin_that_does_not_load_is_not_well(quick, monkeypatch):
    plain = Catalogue.__init__

    def broken(self):
        plain(self)
        self.broken["odd"] = ImportError("libodd.so: cannot open")

    monkeypatch.setattr(Catalogue, "__init__", broken)
    (check,) = (check for check in doctor.examine().checks if check.ok is False)
    assert check.name == "backend odd"
    assert "libodd.so" in check.detail


def test_the_report_names_no_host_and_no_path(monkeypatch):
    vectors = Check("vectors cpu", False, f"no {Path.home()}/driver.so in {Path.cwd()}/lib")
    monkeypatch.setattr(doctor, "conformance", lambda _: iter([vectors]))
    monkeypatch.setattr(Catalogue, "probe", lambda *_: Probe(True, "a device, /opt/vendor/lib/driver.so"))
    text = json.dumps(doctor.examine().to_json())
    assert "no driver.so in lib" in text
    assert "a device, driver.so" in text
    for private in (f"{Path.home()}/", str(Path.cwd()), "/opt/vendor", f'"{socket.gethostname()}"'):
        assert private not in text


def test_a_machine_without_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert "was found" in doctor.compiler()
    assert doctor.compiler().startswith("none of cc")


@pytest.mark.parametrize(("models", "says"), [(None, "empty"), (0, "0 models"), (2, "2 models")])
def test_the_model_cache_is_counted_not_named(monkeypatch, tmp_path, models, says):
    cache = tmp_path / "hub"
    for number in range(models or 0):
        (cache / f"models--owner--name{number}").mkdir(parents=True)
    if models == 0:
        cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert says in doctor.model_cache()
    assert "owner" not in doctor.model_cache()

"""One part of the certification of a GPU: how it is run, and what is kept of it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIXED = """
import pytest

def test_right(record_property):
    record_property("GB/s of nm_mask", 3.5)

def test_wrong():
    assert 1 == 2

@pytest.mark.skip(reason="one device")
def test_elsewhere():
    pass
"""


def part_of(certificate, *words):
    # as this project's tests are run: a warning is an error
    words = [*words, "-q", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider"]
    return certificate.Part("tests", "some tests", (*certificate.PYTEST, *map(str, words)), tests=True)


def test_the_folder_says_what_became_of_every_test(certificate, tmp_path):
    (tmp_path / "test_mixed.py").write_text(MIXED)
    found = certificate.run_part(part_of(certificate, tmp_path), tmp_path, 60.0)
    written = json.loads((tmp_path / "tests.json").read_text())
    assert written["exit status"] == found["exit status"] == 1
    assert (found["result"], found["not passed"]) == ("failed", ["test_wrong"])
    assert {test["test"]: test["outcome"] for test in written["tests"]} == {
        "test_right": "passed",
        "test_wrong": "failure",
        "test_elsewhere": "skipped",
    }
    assert written["tests"][0]["measured"] == {"GB/s of nm_mask": "3.5"}
    assert "assert 1 == 2" in written["tests"][1]["why"]


def test_a_plugin_that_a_machine_happens_to_have_changes_no_certificate(certificate, tmp_path, monkeypatch):
    (tmp_path / "test_right.py").write_text("def test_right():\n    pass\n")
    plugin = tmp_path / "plugin"
    (plugin / "loud-1.0.dist-info").mkdir(parents=True)
    (plugin / "loud-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (plugin / "loud-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nloud = loud\n")
    (plugin / "loud.py").write_text("raise SystemExit('a plugin was loaded')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")]))
    found = certificate.run_part(part_of(certificate, tmp_path / "test_right.py"), tmp_path, 60.0)
    assert found["result"] == "passed"


def test_tests_that_run_out_of_time_leave_the_outcomes_of_those_that_ended(certificate, tmp_path):
    (tmp_path / "test_slow.py").write_text("import time\ndef test_a():\n    pass\ndef test_b():\n    time.sleep(600)\n")
    found = certificate.run_part(part_of(certificate, tmp_path), tmp_path, 8.0)
    assert (found["result"], found["exit status"]) == ("timed out", None)
    tests = json.loads((tmp_path / "tests.json").read_text())["tests"]
    assert [(test["test"], test["outcome"]) for test in tests] == [("test_a", "passed")]


def test_a_skipped_case_of_the_conformance_suite_is_one_that_did_not_pass(certificate, tmp_path, monkeypatch):
    def run(command, seconds):
        cases = "<testcase name='here'/><testcase name='elsewhere'><skipped message='no'/></testcase>"
        Path(str(command[-1]).removeprefix("--junitxml=")).write_text(f"<testsuite>{cases}</testsuite>")
        return certificate.Ended(0, 1.0, [])

    monkeypatch.setattr(certificate, "run", run)
    for part in certificate.parts_of("llama-2-7b"):
        if part.tests:
            result = certificate.run_part(part, tmp_path, 10.0)
            assert result["result"] == ("failed" if part.name == "conformance" else "passed")


def test_tests_of_which_none_ran_do_not_pass(certificate, tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "run", lambda command, seconds: certificate.Ended(0, 1.0, []))
    [part] = [part for part in certificate.parts_of("llama-2-7b") if part.name == "tests"]
    assert certificate.run_part(part, tmp_path, 10.0)["result"] == "failed"


STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("what there is", flush=True)
    if len(sys.argv) > 1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(600)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_runs_out_of_time_may_write_what_it_has_and_leaves_no_process(certificate, monkeypatch, stubborn):
    monkeypatch.setattr(certificate, "GRACE", 1.0 if stubborn else 60.0)
    ended = certificate.run([sys.executable, "-c", STUBBORN, *(["stay"] if stubborn else [])], 3.0)
    assert ended.status is None
    assert ended.seconds < 60
    child, said = ended.said[0], ended.said[1:]
    assert said == ["what there is"]
    assert gone(int(child))


def gone(pid):
    """Whether a process is there no more, at most as an entry that its parent has not read."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_ends_gives_its_status_and_its_last_lines(certificate, capfd):
    code = "print(*range(60), sep='\\n'); raise SystemExit(3)"
    ended = certificate.run([sys.executable, "-c", code], 60.0)
    assert ended.status == 3
    assert ended.said == [str(number) for number in range(20, 60)]
    assert "59" in capfd.readouterr().out

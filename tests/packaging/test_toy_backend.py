"""An out-of-tree backend is found, chosen and held to the contract, from wheels in a fresh environment."""

from __future__ import annotations

import pytest
from _wheels import call

pytestmark = pytest.mark.packaging

SELECT = "from unipruning_core.registry import Catalogue; print(Catalogue().select({}).name)"
LIST = """
import unipruning_core, unipruning_toy
from unipruning_core.registry import Catalogue
catalogue = Catalogue()
print(unipruning_core.__file__, unipruning_toy.__file__, sorted(catalogue.specs), catalogue.broken)
"""


def test_toy_is_listed_beside_the_backends_of_the_project(scratch_python, tmp_path):
    listed = call(scratch_python, "-c", LIST, cwd=tmp_path)
    core, toy, rest = listed.stdout.split(maxsplit=2)
    assert core.startswith(str(scratch_python.parents[1]))
    assert toy.startswith(str(scratch_python.parents[1]))
    assert rest.strip() == "['cpu', 'cuda', 'npu', 'toy'] {}"


@pytest.mark.parametrize(
    ("argument", "environment"),
    [("'toy'", {}), ("", {"UNIPRUNING_BACKEND": "toy"})],
    ids=["by name", "by environment"],
)
def test_toy_is_chosen(scratch_python, tmp_path, argument, environment):
    assert call(scratch_python, "-c", SELECT.format(argument), cwd=tmp_path, **environment).stdout == "toy\n"


def test_toy_is_never_chosen_by_auto(scratch_python, tmp_path):
    chosen = call(scratch_python, "-c", SELECT.format("'auto'"), cwd=tmp_path)
    assert chosen.returncode == 0
    assert chosen.stdout.strip() in {"cpu", "cuda", "npu"}


def test_toy_passes_the_whole_conformance_suite(scratch_python, tmp_path):
    suite = ["--pyargs", "unipruning_core.testing.conformance", "-p", "unipruning_core.testing.plugin"]
    conform = call(scratch_python, "-m", "pytest", "-q", *suite, "--backend", "toy", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert conform.returncode == 0, conform.stdout
    summary = conform.stdout.splitlines()[-1]
    assert "passed" in summary
    assert "skipped" not in summary


def test_suite_runs_from_code_in_an_installed_wheel(scratch_python, tmp_path):
    code = "from unipruning_core.testing.runner import run; raise SystemExit(run('toy', ['-q', '-k', 'nm_mask']))"
    ran = call(scratch_python, "-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert list(tmp_path.iterdir()) == [], "running the suite leaves nothing behind"

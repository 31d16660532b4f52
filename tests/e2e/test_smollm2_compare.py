"""The claim of the method on a real model, measured by the command that compares."""

import json
import subprocess
import sys

import pytest

from unipruning_core.tools.demo.assets import demo_model, demo_texts

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Wanda, drift and feedback at 60 % from one small calibration, every stage a process of its own."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    calibration, evaluation = map(str, demo_texts())
    words = [str(demo_model()), "--methods", "wanda,drift,feedback", "--sparsity", "60%", "--out", str(folder)]
    words += ["--data", calibration, "--samples", "8", "--seq-len", "256"]
    words += ["--eval-data", evaluation, "--windows", "4", "--eval-seq-len", "512", "--keep", "results"]
    subprocess.run([sys.executable, "-m", "unipruning_core.cli", "compare", *words], check=True)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["sparsity"]): row for row in rows}


@pytest.mark.parametrize("peer", ["wanda", "drift"])
def test_feedback_has_at_most_four_fifths_of_a_peers_perplexity_at_sixty_percent(compared, peer):
    feedback = compared["feedback", "60%/global"]["perplexity"]
    assert compared["dense", ""]["perplexity"] < feedback < 0.8 * compared[peer, "60%/row"]["perplexity"]


def test_the_table_says_what_each_method_took(compared):
    peaks = {method: row["search_peak_mib"] for (method, _), row in compared.items()}
    for (method, _), row in compared.items():
        if method != "dense":
            assert row["tokens"] == 8 * 256
            assert min(row["search_seconds"], row["project_seconds"]) > 0
            assert row["pruned"] == pytest.approx(0.6, abs=1e-3)
    # two bytes a weight against fourteen and more
    assert min(peaks["feedback"], peaks["drift"]) > peaks["wanda"] > 200

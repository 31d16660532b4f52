import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipruning_core.errors import RunError
from unipruning_core.search.base import Outcome
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.search.modes.frozen import FrozenSettings
from unipruning_core.search.run_folder import DUAL_FILE, INPUTS_FILE, Run, write_run
from unipruning_core.storage.checkpoint import Target
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.files import sha256

TARGETS = [Target("a.weight", (3, 8)), Target("b.weight", (5, 4), transposed=True)]
DESCRIPTION = {
    "settings": FrozenSettings().to_json(),
    "scope": "matrix",
    "model": {"name": "m", "fingerprint": "f"},
    "data": {"tokens": 3},
    "backend": "cpu",
    "versions": {"torch": "2"},
    "losses": [],
}
DIGESTS = {target.name: f"{number:064x}" for number, target in enumerate(TARGETS)}


def outcomes():
    generator = torch.Generator().manual_seed(0)
    for target in TARGETS:
        dual, norm = (torch.randn(shape, generator=generator) for shape in (target.shape, target.shape[1]))
        yield Outcome(target, dual, torch.tensor(0.1), 7, norm.abs())


def outcomes_without_norms():
    for outcome in outcomes():
        yield replace(outcome, input_norm=None)


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, TARGETS, outcomes(), DESCRIPTION)
    return tmp_path


def test_a_run_reads_back_targets_and_the_magnitude_of_gamma(folder):
    run = Run.open(folder)
    assert list(run.targets) == TARGETS
    assert run.fingerprint == "f"
    for outcome in outcomes():
        gamma = torch.nn.functional.softshrink(outcome.dual, float(outcome.threshold))
        assert torch.equal(run.score(outcome.target.name), gamma.abs())


def test_a_run_reads_back_the_input_norms_where_the_search_knew_them(folder, tmp_path_factory):
    norms = Run.open(folder).input_norms
    assert list(norms) == [target.name for target in TARGETS]
    for outcome in outcomes():
        assert torch.equal(norms[outcome.target.name], outcome.input_norm)
    other = tmp_path_factory.mktemp("other")
    write_run(other, TARGETS, outcomes_without_norms(), DESCRIPTION)
    assert {path.name for path in other.iterdir()} == {RUN_FILE, DUAL_FILE}
    with pytest.raises(RunError, match="holds no input norms; search with '--mode frozen'"):
        _ = Run.open(other).input_norms


def test_the_same_search_gives_the_same_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_run(other, TARGETS, outcomes(), DESCRIPTION)
    for name in (RUN_FILE, DUAL_FILE, INPUTS_FILE):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("name", [RUN_FILE, DUAL_FILE, INPUTS_FILE])
def test_a_flipped_bit_anywhere_is_noticed(folder, name):
    original = (folder / name).read_bytes()
    for position in range(0, len(original), 7):
        changed = bytearray(original)
        changed[position] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(RunError, match=r"damaged|of format|lacks"):
            Run.open(folder)


@pytest.mark.parametrize("name", [RUN_FILE, DUAL_FILE, INPUTS_FILE])
def test_a_truncated_file_is_noticed(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-9])
    with pytest.raises(RunError, match="damaged"):
        Run.open(folder)


def test_a_folder_without_a_manifest_is_an_unfinished_search(folder):
    (folder / RUN_FILE).unlink()
    with pytest.raises(RunError, match="has not finished; repeat the 'unipruning search' command"):
        Run.open(folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere' does not exist; make it with"):
        Run.open(tmp_path / "nowhere")


def test_a_run_of_another_format_is_refused(folder):
    content = json.loads((folder / RUN_FILE).read_text())
    content["format"] = "unipruning-run/99"
    (folder / RUN_FILE).write_text(json.dumps(content))
    with pytest.raises(RunError, match="of format 'unipruning-run/99'"):
        Run.open(folder)


def test_outcomes_that_do_not_match_the_targets_leave_no_finished_run(tmp_path):
    with pytest.raises(ValueError, match="announced"):
        write_run(tmp_path, TARGETS[::-1], outcomes(), DESCRIPTION)
    with pytest.raises(RunError):
        Run.open(tmp_path)


def test_the_digests_of_the_weights_come_back(tmp_path):
    write_run(tmp_path, TARGETS, outcomes(), DESCRIPTION, DIGESTS)
    assert Run.open(tmp_path).digests == DIGESTS


def test_a_run_of_before_digests_has_none(folder):
    assert Run.open(folder).digests == {}


def test_a_run_of_the_first_format_is_read(folder):
    content = json.loads((folder / RUN_FILE).read_text())
    del content["scope"], content["checksum"]
    content |= {"format": "unipruning-run/1", "settings": {**content["settings"], "ramp_share": 0.5, "pull": 0.0}}
    (folder / RUN_FILE).write_text(json.dumps(sealed(content)))
    run = Run.open(folder)
    assert run.scope == "matrix"
    assert run.description["settings"] == FrozenSettings().to_json()


def rewritten(folder, change):
    """Change run.json and seal it again, as somebody who knows how would."""
    content = json.loads((folder / RUN_FILE).read_text())
    del content["checksum"]
    change(content)
    (folder / RUN_FILE).write_text(json.dumps(sealed(content)))


def put(content, path, value):
    *above, last = path
    for key in above:
        content = content[key]
    content[last] = value


ENTRY = ("targets", 0)
HUGE = 10**30


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("settings",), [None, [], {}, "x", {"mode": ["drift"]}, {"mode": "none"}, {"mode": None}]),
        (("settings", "quantile"), ["0.001", True, None, 2.0, [], HUGE]),
        (("settings", "metric"), ["best", 3, None]),
        (("settings", "seed"), [-1, 0.5, "3", HUGE]),
        (("scope",), [None, "", "auto", "all", 3]),
        (("model",), [None, "x", {}, []]),
        (("model", "fingerprint"), [None, 3, {}]),
        (("data",), [None, 3, []]),
        (("data", "tokens"), [None, -1, 1.5, "3", True]),
        (("backend",), [None, 3, {}]),
        (("versions",), [None, [], {"torch": 2}]),
        (("losses",), [None, {}, [None], [True], ["x"], [[1.0]]]),
        (("threshold_trace",), [None, {}, [None], [True], ["x"], [[1.0]]]),
        (("files",), [{}, [], None, {DUAL_FILE: 3}, {DUAL_FILE: "0" * 64, "../../etc/passwd": "0" * 64}]),
        (("files", "run.json"), ["0" * 64]),
        (("files", DUAL_FILE), [None, 3, "0" * 63, "../x"]),
        (("targets",), [None, {}, [], [None], [3], [{}], ["a.weight", "b.weight"]]),
        ((*ENTRY, "name"), [None, 3, "c.weight", "b.weight"]),
        ((*ENTRY, "shape"), [None, 3, [], [3], [3, 8, 1], [8, 3], [3.0, 8.0], [True, 8], [-3, 8], [0, 8], [HUGE, 1]]),
        ((*ENTRY, "transposed"), [None, 0, 1, "no"]),
        ((*ENTRY, "threshold"), [None, "x", True, -1, -0.5, 1e39, HUGE, []]),
        ((*ENTRY, "steps"), [None, -1, 1.5, True, "x"]),
        ((*ENTRY, "sha256"), [None, 3, "", "x" * 64, "0" * 64]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_run_that_no_search_wrote_is_refused_even_with_right_checksums(folder, path, values):
    original = (folder / RUN_FILE).read_bytes()
    for value in values:
        (folder / RUN_FILE).write_bytes(original)
        rewritten(folder, lambda content, value=value: put(content, path, value))
        with pytest.raises(RunError, match=r"is damaged \(.*\); search again"):
            Run.open(folder)


REQUIRED = ["settings", "scope", "model", "data", "backend", "versions", "files", "targets"]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_run_that_lacks_a_part_is_refused(folder, key):
    rewritten(folder, lambda content: content.pop(key))
    with pytest.raises(RunError, match=rf"is damaged \('{key}' is missing\)"):
        Run.open(folder)


def test_a_run_cut_to_fewer_or_reordered_targets_is_refused(folder):
    original = (folder / RUN_FILE).read_bytes()
    for change in (
        lambda c: c["targets"].pop(),
        lambda c: c["targets"].reverse(),
        lambda c: c["targets"].append(c["targets"][0]),
    ):
        (folder / RUN_FILE).write_bytes(original)
        rewritten(folder, change)
        with pytest.raises(RunError, match="is damaged"):
            Run.open(folder)


@pytest.mark.parametrize("name", [DUAL_FILE, INPUTS_FILE])
@pytest.mark.parametrize("wrong", ["dtype", "shape", "name", "more", "fewer"])
def test_tensors_that_are_not_those_of_the_targets_are_refused_even_with_right_checksums(folder, name, wrong):
    tensors = load_file(folder / name)
    first = tensors["a.weight"]
    tensors |= {
        "dtype": {"a.weight": first.bfloat16()},
        "shape": {"a.weight": first[..., :-1].contiguous()},
        "name": {"a.weights": tensors.pop("a.weight")} if wrong == "name" else {},
        "more": {"c.weight": first.clone()},
        "fewer": {},
    }[wrong]
    if wrong == "fewer":
        del tensors["a.weight"]
    save_file(tensors, folder / name)
    rewritten(folder, lambda content: put(content, ("files", name), sha256(folder / name)))
    with pytest.raises(RunError, match=rf"is damaged \(.*{name}"):
        Run.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_input_norms_that_no_text_has_are_refused(folder, value):
    tensors = load_file(folder / INPUTS_FILE)
    tensors["b.weight"][0] = value
    save_file(tensors, folder / INPUTS_FILE)
    rewritten(folder, lambda content: put(content, ("files", INPUTS_FILE), sha256(folder / INPUTS_FILE)))
    with pytest.raises(RunError, match=r"no valid input norms of 'b\.weight'"):
        _ = Run.open(folder).input_norms


def test_a_run_that_cannot_be_read_is_not_called_damaged(folder):
    (folder / DUAL_FILE).unlink()
    os.mkfifo(folder / DUAL_FILE)
    with pytest.raises(RunError, match="cannot be read: it is not a regular file"):
        Run.open(folder)

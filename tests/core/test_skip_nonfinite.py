"""Numbers that are not finite: with --skip-nonfinite the sample is left out, and the search says so."""

import json

import pytest
import torch
from _checkpoints import content, overflowing_at, save_llama, save_tokenizer
from _modes import SAMPLES, batches, start
from _nonfinite import MODES, data, poisoned, run
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import DataError, RunError
from unipruning_core.models.targets import find_targets
from unipruning_core.progress import Progress
from unipruning_core.search import samples
from unipruning_core.search.choice import settings_of
from unipruning_core.search.loop import SearchTask, finished_search
from unipruning_core.search.nonfinite import first_unfinite
from unipruning_core.search.run_folder import RUN_FILE, Run
from unipruning_core.search.samples import run_samples
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class InterruptedSearchError(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
def test_skipping_leaves_a_sample_out_as_if_it_had_not_been_there(overflowing, tmp_path, mode):
    out, progress = tmp_path / "run", Notes()
    found = run(overflowing, out, data(bad=[0, 3]), skip=True, mode=mode, progress=progress)
    assert found.description["skipped"] == [{"sample": 1, "documents": [10]}, {"sample": 4, "documents": [13]}]
    assert any("left out as not finite: 2 of 6 samples (number 1 from document 10" in note for note in progress.notes)
    for name in ("losses", "threshold_trace"):
        assert len(found.description.get(name, [])) == (0 if mode == "frozen" else 4)

    model = AutoModelForCausalLM.from_pretrained(overflowing, dtype=torch.float16)
    layers, _ = find_targets(model, Checkpoint.open(overflowing))
    without = settings_of(mode, {}).start(model, layers, CpuBackend(), SAMPLES)
    good = [ids for sample, ids in enumerate(data().batches) if sample not in (0, 3)]
    for number, ids in enumerate(good):
        without.step(number, ids)
    for outcome in without.outcomes():
        score = (outcome.dual.abs() - outcome.threshold).clamp_min(0)
        torch.testing.assert_close(found.score(outcome.target.name), score, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_skipping_changes_no_byte_where_all_is_finite(overflowing, tmp_path, mode):
    run(overflowing, tmp_path / "a", data(), mode=mode)
    run(overflowing, tmp_path / "b", data(), skip=True, mode=mode)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_a_search_goes_on_with_skipping_from_the_state_that_was_kept(overflowing, tmp_path, mode):
    run(overflowing, tmp_path / "whole", data(bad=[2, 4]), skip=True, mode=mode)
    cut = tmp_path / "cut"
    with pytest.raises(DataError):
        run(overflowing, cut, data(bad=[2, 4]), mode=mode, save_every=0.0)
    run(overflowing, cut, data(bad=[2, 4]), skip=True, mode=mode)
    assert content(cut) == content(tmp_path / "whole")


def test_what_was_skipped_is_kept_with_the_state_and_needs_the_flag(overflowing, tmp_path, monkeypatch):
    run(overflowing, tmp_path / "whole", data(bad=[1, 4]), skip=True, mode="drift")
    saved = samples.Keeper.after

    def after(self, done, stopping):
        saved(self, done, stopping)
        if done == 3:
            raise InterruptedSearchError

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(samples.Keeper, "after", after)
        with pytest.raises(InterruptedSearchError):
            run(overflowing, cut, data(bad=[1, 4]), skip=True, mode="drift", save_every=0.0)
    with pytest.raises(RunError, match="left out samples; repeat the command with --skip-nonfinite"):
        run(overflowing, cut, data(bad=[1, 4]), mode="drift")
    run(overflowing, cut, data(bad=[1, 4]), skip=True, mode="drift")
    assert content(cut) == content(tmp_path / "whole")
    for skip in (True, False):
        task = SearchTask(
            Checkpoint.open(overflowing), data(bad=[1, 4]), settings_of("drift", {}), "tiny", {}, skip_nonfinite=skip
        )
        if skip:
            assert finished_search(task, CpuBackend(), cut) is not None
        else:
            with pytest.raises(RunError, match="left out samples"):
                finished_search(task, CpuBackend(), cut)


@pytest.mark.parametrize("mode", MODES)
def test_a_text_of_which_nothing_is_finite_is_an_error(overflowing, tmp_path, mode):
    with pytest.raises(DataError, match="all 6 samples were left out"):
        run(overflowing, tmp_path / "run", data(bad=range(SAMPLES)), skip=True, mode=mode)
    assert not (tmp_path / "run" / RUN_FILE).exists()


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled"])
def test_skipping_takes_no_step_of_a_matrix_whose_gradient_is_not_finite(folder, mode):
    found, progress = start(folder, mode=mode), Notes()
    name = poisoned(found, 4, 2)
    processed = run_samples(found, batches(), progress, skip_nonfinite=True)
    assert processed.skipped == [{"sample": 3, "matrix": name}]
    assert len(processed.losses) == SAMPLES
    assert found.steps.tolist() == [SAMPLES - (position == 4) for position in range(len(found.layers))]
    assert first_unfinite(found.tensors()) is None
    assert "left out as not finite: 1 steps of single matrices in 1 other samples (number 3)" in progress.notes


def test_a_matrix_without_a_finite_gradient_has_no_scores(folder):
    found = start(folder, mode="feedback")
    found.layers[2].parameter.register_hook(lambda gradient: gradient * float("nan"))
    run_samples(found, batches(), Progress(), skip_nonfinite=True)
    with pytest.raises(DataError, match=r"1 of \d+ target layers received no token with a finite gradient"):
        next(found.outcomes())


def test_run_json_never_holds_what_is_no_json(overflowing, tmp_path):
    run(overflowing, tmp_path / "run", data(bad=[3], origins=False), skip=True)

    def refuse(constant):
        raise AssertionError(constant)

    written = json.loads((tmp_path / "run" / RUN_FILE).read_text(), parse_constant=refuse)
    assert written["skipped"] == [{"sample": 4}]
    assert Run.open(tmp_path / "run").description["skipped"] == written["skipped"]


@pytest.fixture
def evil_text(tmp_path):
    """A model with a tokenizer, and a text of eight documents of which the third makes it overflow."""
    save_llama(tmp_path / "model", dtype=torch.float16)
    save_tokenizer(tmp_path / "model")
    evil = AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("word29")
    overflowing_at(tmp_path / "model", evil)
    lines = [json.dumps({"text": " ".join([f"word{29 if number == 2 else number}"] * 20)}) for number in range(8)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_the_command_names_the_document_and_goes_on_without_it(evil_text, capsys, mode):
    words = ["search", str(evil_text / "model"), "--data", str(evil_text / "text.jsonl"), "--packing", "document"]
    words += ["--samples", "8", "--seq-len", "16", "--dtype", "float16"]
    words += ["--mode", mode, "--out", str(evil_text / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "of 8 (document 3, which begins 'word29 word29 word29" in said
    assert said.endswith("is saved; use --dtype bfloat16 or float32, or leave such samples out with --skip-nonfinite")
    assert main([*words, "--skip-nonfinite"]) == 0
    assert "left out as not finite: 1 of 8 samples (number " in capsys.readouterr().err
    (skipped,) = Run.open(evil_text / "run").description["skipped"]
    assert skipped["documents"] == [3]


def test_a_model_in_memory_is_left_as_it_was(evil_text):
    model = AutoModelForCausalLM.from_pretrained(evil_text / "model", dtype=torch.float16)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tokenizer = AutoTokenizer.from_pretrained(evil_text / "model")
    options = {"data": str(evil_text / "text.jsonl"), "packing": "document", "samples": 8, "seq_len": 16}
    options |= {"mode": "drift", "progress": False}
    with pytest.raises(DataError, match=r"document 3.*nothing is saved"):
        unipruning.search(model, tokenizer, **options)
    scores = unipruning.search(model, tokenizer, skip_nonfinite=True, **options)
    assert [entry["documents"] for entry in scores.provenance["skipped"]] == [[3]]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())

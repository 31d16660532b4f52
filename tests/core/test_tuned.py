"""What a tuned folder keeps of its masks: the record of a checkpoint, and Trainer's callback that writes it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from _checkpoints import changed
from _tuning import left_of, loaded, prune, train
from transformers import Trainer, TrainingArguments

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.projection.mask_file import MASK_FILE
from unipruning_core.projection.report import read_report
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.tensorfile import digest_of

ROWS = [{"input_ids": row, "labels": row} for row in torch.arange(16 * 16).view(16, 16) % 48]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned Llama, never changed."""
    return prune(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tuned(pruned):
    """A checkpoint trained from it with the masks held, without a record; never changed."""
    model, folder = loaded(pruned), pruned.parent / "tuned"
    with unipruning.hold_masks(model, pruned, False):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tuned, tmp_path):
    return shutil.copytree(tuned, tmp_path / "copy")


def trainer_of(model, out, pruned, **others):
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        weight_decay=0.1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{"max_steps": 3, "save_steps": 2, **others},
    )
    return Trainer(model, arguments, train_dataset=ROWS, callbacks=[unipruning.MaskCallback(pruned, False)])


@pytest.mark.parametrize("kind", ["gpt2", "of_one_tensor_each", "of_one_tensor_for_all"])
def test_a_tuned_folder_keeps_the_masks_of_every_kind_of_model(tmp_path, kind):
    folder = prune(tmp_path, kind)
    model = loaded(folder)
    with unipruning.hold_masks(model, folder, False):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), 1)
    model.save_pretrained(tmp_path / "tuned")
    unipruning.record_tuned(folder, tmp_path / "tuned", False)
    one, other = (unipruning.read_masks(path, False) for path in (folder, tmp_path / "tuned"))
    assert one.targets == other.targets
    assert all(torch.equal(one.read(target.name), other.read(target.name)) for target in one.targets)


def test_the_record_is_of_the_tuned_weights(pruned, copy):
    unipruning.record_tuned(pruned, copy, False)
    before, after, checkpoint = read_report(pruned), read_report(copy), Checkpoint.open(copy)
    assert after["tuned"] is True
    assert "the kept ones were trained afterwards" in (copy / "README.md").read_text()
    assert "tuned" not in before
    for name in ("provenance", "sparsity", "model_fingerprint", "masks_sha256"):
        assert after[name] == before[name]
    for target in unipruning.read_masks(copy, False).targets:
        weight, counts = checkpoint.read_target(target), after["matrices"][target.name]
        assert counts["sha256"] == digest_of(weight) != before["matrices"][target.name]["sha256"]
        assert counts["zero_share"] == float((weight == 0).double().mean())


def test_a_card_of_ones_own_is_kept(pruned, copy):
    (copy / "README.md").write_text("mine")
    unipruning.record_tuned(pruned, copy, False)
    assert (copy / "README.md").read_text() == "mine"


def test_a_tuned_folder_can_be_tuned_further(pruned, copy, tmp_path):
    unipruning.record_tuned(pruned, copy, False)
    model = loaded(copy)
    with unipruning.hold_masks(model, copy, False):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), 1)
    model.save_pretrained(copy)
    unipruning.record_tuned(copy, copy, False)
    assert left_of(copy, pruned)[0] == 0
    assert unipruning.read_masks(copy, False).targets == unipruning.read_masks(pruned, False).targets


def test_training_is_not_overwritten(pruned, copy, capsys):
    unipruning.record_tuned(pruned, copy, False)
    model, run = pruned.parent / "model", pruned.parent / "pruned-run"
    assert main(["project", str(model), str(run), "--sparsity", "60%", "--out", str(copy), "--overwrite"]) == 2
    assert "holds files that were not written with the checkpoint" in capsys.readouterr().err
    assert Checkpoint.open(copy).tensors


def regrown(pruned, copy):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"].add_(1)

    return changed(copy, change)


def renamed(pruned, copy):
    def change(tensors):
        tensors["up"] = tensors.pop("model.layers.0.mlp.up_proj.weight")

    return changed(copy, change)


def reshaped(pruned, copy):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].t().contiguous()

    return changed(copy, change)


REFUSED = {
    regrown: r"576 pruned weights of 'model.layers.0.mlp.up_proj.weight' are not zero in .*; hold the masks",
    renamed: r"was not trained from what was pruned: 'model.layers.0.mlp.up_proj.weight' is not in it; save",
    reshaped: r"'model.layers.0.mlp.up_proj.weight' has the shape \(24, 40\), not \(40, 24\); save",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_was_not_trained_with_the_masks_held_gets_no_record(pruned, copy, change):
    with pytest.raises(unipruning.UnipruningError, match=REFUSED[change]):
        unipruning.record_tuned(pruned, change(pruned, copy), False)
    assert not (copy / MASK_FILE).exists()


def test_trainer_holds_the_masks_and_its_checkpoints_keep_them(pruned, tmp_path):
    trainer = trainer_of(loaded(pruned), tmp_path / "out", pruned)
    trainer.train()
    checkpoints = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert checkpoints == ["checkpoint-2", "checkpoint-3"]
    for name in checkpoints:
        lost, still = left_of(tmp_path / "out" / name, pruned)
        assert lost == 0
        assert still < 20
        assert read_report(tmp_path / "out" / name)["tuned"] is True
    # of the last step on, the model is the user's
    train(trainer.model, torch.optim.SGD(trainer.model.parameters(), lr=1.0), 1)
    trainer.save_model(tmp_path / "later")
    assert left_of(tmp_path / "later", pruned)[0] > 1000


def test_trainer_resumes_with_the_masks_held(pruned, tmp_path):
    trainer_of(loaded(pruned), tmp_path / "out", pruned, max_steps=2).train()
    trainer_of(loaded(pruned), tmp_path / "out", pruned, max_steps=4).train(resume_from_checkpoint=True)
    assert left_of(tmp_path / "out" / "checkpoint-4", pruned)[0] == 0


def test_the_example_tunes_a_pruned_folder(pruned, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "word1 word2 word3 word4"}\n' * 40)
    words = ["--steps", "2", "--seq-len", "16", "--learning-rate", "1e-2"]
    script = "examples/tuning/tune.py"
    ran = subprocess.run(
        [sys.executable, script, str(pruned), str(text), str(tmp_path / "tuned"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    lost, still = left_of(tmp_path / "tuned", pruned)
    assert lost == 0
    assert still < 20
    assert read_report(tmp_path / "tuned")["tuned"] is True

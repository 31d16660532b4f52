"""Numbers that are not finite: the search ends at once, says where, and keeps only what is finite."""

import pytest
import torch
from _checkpoints import changed, save_llama
from _modes import batches, start
from _nonfinite import MODES, data, poisoned, run

from unipruning_core.errors import DataError
from unipruning_core.progress import Progress
from unipruning_core.search import samples
from unipruning_core.search.nonfinite import first_unfinite
from unipruning_core.search.run_folder import RUN_FILE
from unipruning_core.search.samples import run_samples
from unipruning_core.testing.tally import Tally


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_that_overflows_ends_the_search_with_what_helps(overflowing, tmp_path, mode):
    out = tmp_path / "run"
    with pytest.raises(DataError) as caught:
        run(overflowing, out, data(bad=[3]), mode=mode, save_every=0.0)
    message = str(caught.value)
    assert "sample 4 of 6 (document 13, which begins 'words of 3')" in message
    assert "'model.layers.0.self_attn.o_proj.weight'" in message or "'model.layers.0.mlp" in message
    assert "the state after sample 3 is kept; use --dtype bfloat16 or float32, or " in message
    assert ("or lower --learning-rate" in message) == (mode in ("drift", "coupled"))
    assert message.endswith("leave such samples out with --skip-nonfinite")
    assert {path.name for path in out.glob("unfinished/resume-*")} == {"resume-00000002", "resume-00000003"}
    with pytest.raises(DataError, match="sample 4 of 6"):
        run(overflowing, out, data(bad=[3]), mode=mode)


@pytest.mark.parametrize(
    ("mode", "settings"), [("feedback", {}), ("drift", {}), ("drift", {"max_grad_norm": 0.0}), ("coupled", {})]
)
def test_a_gradient_that_is_not_finite_ends_the_search_at_the_next_look(folder, mode, settings, monkeypatch):
    monkeypatch.setattr(samples, "CHECK_EVERY", 2)
    found = start(folder, mode=mode, **settings)
    name = poisoned(found, 4, 2)
    with pytest.raises(DataError) as caught:
        run_samples(found, batches(), Progress())
    message = str(caught.value)
    assert "--skip-nonfinite" in message
    if mode == "feedback":
        assert message.startswith(
            f"what the search holds of {name!r} is NaN or infinite, because a gradient was in one"
        )
        assert "the samples 3 to 4 of 6" in message
    else:
        # the weights have moved: all that are clipped together, or the one, which shows in the next sample
        assert "samples 3 to 4 of 6" in message or "if not a gradient in a sample from 3 on" in message


@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_scores_that_are_not_finite_are_no_result(tmp_path, mode):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"].mul_(1e-40)

    model = changed(save_llama(tmp_path / "model", dtype=torch.float32), change)
    with pytest.raises(DataError) as caught:
        run(model, tmp_path / "run", data(), mode=mode, metric="ria", save_every=0.0)
    message = str(caught.value)
    assert message.startswith("Γ of 'model.layers.0.mlp.up_proj.weight' has values that are NaN or infinite")
    # feedback scores the weights from the first sample on, frozen at the end
    kept = "nothing is saved" if mode == "feedback" else "the state after sample 5 is kept"
    assert message.endswith(f"{kept}; use another --metric, such as wanda or magnitude")
    assert not (tmp_path / "run" / RUN_FILE).exists()


def test_a_saved_state_is_always_finite(folder, tmp_path, monkeypatch):
    found = start(folder, mode="feedback")
    poisoned(found, 0, 1)
    saved = []

    class Kept:
        folder, notes = tmp_path, ()

        def found(self, samples):
            return None

        def last_sample(self):
            return saved[-1] if saved else None

        def save(self, sample, tensors, losses, parts):
            assert first_unfinite(tensors) is None
            saved.append(sample)

    with pytest.raises(DataError, match=r"sample 2 of 6.*the state after sample 1 is kept"):
        run_samples(found, batches(), Progress(), Kept(), 0.0)
    assert saved == [1]


def test_the_first_tensor_that_is_not_finite_is_found_in_every_dtype():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for bad in ("nan", "inf", "-inf"):
            tensors = {"number": torch.tensor([3]), "none": torch.zeros(0), "one": torch.ones(5, 7, dtype=dtype)}
            tensors |= {"two": tensors["one"].clone(), "three": tensors["one"].clone()}
            assert first_unfinite(tensors) is None
            tensors["two"][4, 6] = tensors["three"][0, 0] = float(bad)
            assert first_unfinite(tensors) == "two"


def test_a_look_at_the_state_costs_three_operators_a_tensor_and_one_read(folder):
    found = start(folder, mode="feedback")
    found.step(0, batches()[0])
    with Tally() as tally:
        assert found.first_unfinite() is None
    floating = sum(tensor.is_floating_point() for tensor in found.tensors().values())
    assert tally.operators.total() <= 4 * floating + 4
    assert tally.host_reads <= 1

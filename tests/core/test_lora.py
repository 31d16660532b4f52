"""Adapters of peft, merged into pruned weights without filling their zeros."""

from __future__ import annotations

import pytest
import torch
from _tuning import left_of, loaded, prune, train
from peft import LoraConfig, PeftModel, get_peft_model

import unipruning

# peft asks transformers by a name that is to go
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LINEARS = {"target_modules": "all-linear"}
ADAPTED = {
    "llama": LINEARS,
    "llama, a matrix trained whole": {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["down_proj"]},
    "llama, of weight and magnitude": {**LINEARS, "use_dora": True},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "of_one_tensor_for_all": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "of_one_tensor_each": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned Llama, never changed."""
    return prune(tmp_path_factory.mktemp("llama"))


def adapted(pruned, **config):
    return get_peft_model(loaded(pruned), LoraConfig(r=4, lora_alpha=16, **{**LINEARS, **config}))


def trained(model, pruned, steps=3):
    """Train the adapters with the masks held; they begin with a product of zero."""
    with unipruning.hold_masks(model, pruned, False):
        train(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), steps)
    return model


@pytest.mark.parametrize("kind", ADAPTED)
def test_merged_adapters_leave_the_zeros(tmp_path, kind):
    folder = prune(tmp_path, kind.partition(",")[0])
    model = get_peft_model(loaded(folder), LoraConfig(r=4, lora_alpha=16, **ADAPTED[kind]))
    merged = unipruning.merge_lora(trained(model, folder), folder, progress=False)
    merged.save_pretrained(tmp_path / "tuned")
    lost, still = left_of(tmp_path / "tuned", folder)
    kept = sum(int(mask.sum()) for mask in masks_of(folder))
    assert lost == 0
    assert still < kept / 2
    unipruning.record_tuned(folder, tmp_path / "tuned", False)


def masks_of(folder):
    masks = unipruning.read_masks(folder, False)
    return [masks.read(target.name) for target in masks.targets]


def test_kept_weights_are_what_peft_merges(pruned, tmp_path):
    trained(adapted(pruned), pruned).save_pretrained(tmp_path / "adapter")
    one = PeftModel.from_pretrained(loaded(pruned), tmp_path / "adapter").merge_and_unload()
    other = unipruning.merge_lora(
        PeftModel.from_pretrained(loaded(pruned), tmp_path / "adapter"), pruned, progress=False
    )
    expected, found = one.state_dict(), other.state_dict()
    masks = unipruning.read_masks(pruned, False)
    for target in masks.targets:
        mask = masks.read(target.name)
        assert expected[target.name][~mask].count_nonzero() > 0
        expected[target.name] = expected[target.name] * mask
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_adapters_that_are_merged_already_are_refused(pruned):
    model = trained(adapted(pruned), pruned, 1)
    train(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), 2)
    model.merge_adapter()
    with pytest.raises(unipruning.UnipruningError, match=r"are not zero in '.*base_layer.weight'; load the model"):
        unipruning.merge_lora(model, pruned, progress=False)


def test_a_model_without_adapters_is_refused(pruned):
    with pytest.raises(
        unipruning.UnipruningError, match=r"needs a model with adapters from peft, not a LlamaForCausal"
    ):
        unipruning.merge_lora(loaded(pruned), pruned, progress=False)

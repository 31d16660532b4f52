"""SparseGPT against the formulas it stands for, written out slowly, and on whole models."""

import json

import pytest
import torch
from _checkpoints import save_gpt2, save_llama
from transformers import AutoModelForCausalLM

from unipruning_core.compare.blockwise import enter, hessians
from unipruning_core.compare.settings import SparseGptSettings
from unipruning_core.compare.sparsegpt import inverse_factor, sparsify
from unipruning_core.compare.sparsegpt_job import check_sparsity, prune_model, write_changed
from unipruning_core.data.calibration import Calibration
from unipruning_core.errors import CheckpointError, ConfigError, DataError
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.targets import find_targets
from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.place import claimed_output
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
SPARSITIES = ["50%", "70%", "2:4", "1:4"]


def problem(rows, columns, tokens=200):
    """A weight and correlated inputs (tokens, columns)."""
    generator = torch.Generator().manual_seed(rows * columns)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    return torch.randn(rows, columns, generator=generator), torch.randn(tokens, columns, generator=generator) @ mixing


def hessian_of(x):
    return 2 / len(x) * x.t().double() @ x.double()


def by_the_formulas(weight, hessian, sparsity, block):
    """Optimal brain surgery column by column and row by row, each inverse computed afresh, in double precision."""
    W = weight.double().clone()
    rows, columns = W.shape
    H = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    kept = torch.ones_like(W, dtype=torch.bool)
    width = sparsity.m if hasattr(sparsity, "m") else block
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        loss = torch.stack([W[:, c] ** 2 / torch.linalg.inv(H[c:, c:])[0, 0] for c in range(start, stop)], dim=1)
        if hasattr(sparsity, "m"):
            kept[:, start:stop].scatter_(1, loss.topk(sparsity.m - sparsity.n, dim=1, largest=False).indices, False)
        else:
            drop = rows * (stop - start) - (sparsity.keep(rows * stop) - sparsity.keep(rows * start))
            flat = torch.ones(rows * (stop - start), dtype=torch.bool)
            flat[loss.flatten().topk(drop, largest=False).indices] = False
            kept[:, start:stop] = flat.view(rows, -1)
        for c in range(start, stop):
            inverse = torch.linalg.inv(H[c:, c:])
            for row in range(rows):
                if not kept[row, c]:
                    W[row, c:] -= W[row, c] / inverse[0, 0] * inverse[:, 0]
                    W[row, c] = 0.0
    return W, kept


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("block", [8, 16, 128])
def test_masks_and_weights_are_those_of_the_formulas(sparsity, block):
    weight, x = problem(6, 24)
    sparsity = parse_sparsity(sparsity)
    wanted, kept = by_the_formulas(weight, hessian_of(x), sparsity, block)
    found = weight.clone()
    mask = sparsify(found, inverse_factor(hessian_of(x).float(), 0.01, "w"), sparsity, BACKEND, block)
    assert torch.equal(mask, kept)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 20), (10, 33), (1, 129)], ids=str)
@pytest.mark.parametrize("share", ["50%", "33.3%", "0%", "99%"])
def test_a_share_is_exact_over_the_matrix_whatever_the_blocks(shape, share):
    weight, x = problem(*shape)
    sparsity = parse_sparsity(share)
    mask = sparsify(weight, inverse_factor(hessian_of(x).float(), 0.01, "w"), sparsity, BACKEND, 8)
    assert int(mask.sum()) == sparsity.keep(weight.numel())
    assert not weight[~mask].any()
    assert not torch.signbit(weight[~mask]).any()


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_it_reconstructs_outputs_better_than_wanda_on_the_same_layer(sparsity):
    weight, x = problem(32, 64, tokens=400)
    sparsity = parse_sparsity(sparsity)
    score = weight.abs() * x.square().mean(dim=0).sqrt()
    if hasattr(sparsity, "m"):
        wanda = BACKEND.nm_mask(score, sparsity.n, sparsity.m)
    else:
        wanda = BACKEND.topk_mask(score, sparsity.keep(64))
    changed = weight.clone()
    sparsify(changed, inverse_factor(hessian_of(x).float(), 0.01, "w"), sparsity, BACKEND, 32)

    def error(w):
        return ((w - weight) @ x.t()).square().sum()

    assert error(changed) < error(weight * wanda)


@pytest.mark.parametrize("share", ["60%/row", "60%/global"])
def test_a_budget_it_does_not_have_is_refused(share):
    with pytest.raises(ConfigError, match="a ratio of each matrix"):
        check_sparsity(parse_sparsity(share))


@pytest.mark.parametrize("settings", [{"block": 0}, {"dampening": 0.0}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="the published value is"):
        SparseGptSettings(**settings)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_layer_that_saw_nothing_is_refused_by_name(value):
    with pytest.raises(DataError, match=r"layer 'w' received no finite input"):
        inverse_factor(torch.full((4, 4), value), 0.01, "w")


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, find_targets(model, Checkpoint.open(folder))[0]


def batches(count=3, length=12):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(48, (1, length), generator=generator) for _ in range(count)]


@torch.no_grad()
def test_blocks_called_one_by_one_compute_what_the_model_computes(folder):
    model, _ = loaded(folder)
    blocks = list(decoder_blocks(model)[1])
    (ids,) = batches(1)
    sample = enter(model, blocks, ids)
    hidden = sample.hidden
    for call, block in zip(sample.calls, blocks, strict=True):
        hidden = call.on(block, hidden)
    final = [part for part in model.base_model.children() if "Norm" in type(part).__name__][-1]
    assert torch.equal(final(hidden), model.base_model(ids)[0])


@torch.no_grad()
def test_hessians_are_of_each_layers_own_inputs(folder):
    model, layers = loaded(folder)
    seen = {}

    def hook(name):
        def add(_, args):
            x = args[0].flatten(0, -2).double()
            seen.setdefault(name, []).append(x)

        return add

    handles = [layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers]
    with hessians(layers) as found:
        for ids in batches():
            model(ids)
    for handle in handles:
        handle.remove()
    assert found.keys() == {layer.name for layer in layers}
    for name, parts in seen.items():
        torch.testing.assert_close(found[name].double(), hessian_of(torch.cat(parts)), rtol=1e-5, atol=1e-6)


def test_a_model_whose_blocks_are_no_chain_is_refused(tmp_path):
    model, _ = loaded(save_llama(tmp_path / "m"))
    blocks = list(decoder_blocks(model)[1])
    blocks[1].register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]))
    with pytest.raises(CheckpointError, match="does not pass each block's output only to the next"):
        enter(model, blocks, batches(1)[0])


@torch.no_grad()
@pytest.mark.parametrize("sparsity", ["50%", "2:4"])
def test_a_later_block_is_pruned_on_what_the_pruned_blocks_before_it_make(tmp_path, sparsity):
    """Every layer as by hand: one block at a time, in a model whose earlier blocks are pruned already."""
    folder, sparsity = save_llama(tmp_path / "m", dtype=torch.float32), parse_sparsity(sparsity)
    model, layers = loaded(folder)
    calibration = Calibration(batches(), 36, "")
    masks = prune_model(model, layers, calibration, SparseGptSettings(), sparsity, BACKEND, Progress())

    by_hand, same = loaded(folder)
    for number in range(2):
        own = [layer for layer in same if f"layers.{number}." in layer.name]
        with hessians(own) as found:
            for ids in calibration.batches:
                by_hand(ids)
        for layer in own:
            factor = inverse_factor(found[layer.name], 0.01, layer.name)
            weight = layer.weight.clone()
            assert torch.equal(sparsify(weight, factor, sparsity, BACKEND, 128), masks[layer.name]), layer.name
            layer.weight.copy_(weight)
    for one, other in zip(layers, same, strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("save", [save_llama, save_gpt2])
def test_the_checkpoint_holds_the_changed_weights_and_their_masks(save, tmp_path):
    """In bfloat16 and in float32, and where the weight is stored the other way round."""
    folder = save(tmp_path / "m")
    model, layers = loaded(folder)
    checkpoint, sparsity, progress = Checkpoint.open(folder), parse_sparsity("50%"), Progress()
    calibration = Calibration(batches(), 36, "")
    masks = prune_model(model, layers, calibration, SparseGptSettings(), sparsity, BACKEND, progress)
    out = tmp_path / "out"
    targets = [layer.target for layer in layers]
    with claimed_output(checkpoint, targets, [sparsity], out, overwrite=False, progress=progress) as output:
        about, weights = {"provenance": {}}, model.num_parameters()
        done = write_changed(checkpoint, layers, masks, sparsity, output, about, progress, weights)
    assert json.loads((out / "unipruning.json").read_text())["overall"]["model"]["weights"] == weights
    assert done.pruned == sum(mask.numel() - sparsity.keep(mask.numel()) for mask in masks.values())
    reloaded, again = loaded(out)
    file = read_masks(out)
    for layer, other in zip(layers, again, strict=True):
        assert torch.equal(layer.parameter, other.parameter)
        assert torch.equal(file.read(layer.name), masks[layer.name])
        assert not layer.weight[~masks[layer.name]].any()
    # nothing but targets changed
    names = {layer.name for layer in layers}
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    untouched = {name: value for name, value in reloaded.state_dict().items() if name not in names}
    assert all(torch.equal(value, before[name]) for name, value in untouched.items() if name in before)
    report = json.loads((out / "unipruning.json").read_text())
    assert report["overall"]["sparsity"] == pytest.approx(0.5, abs=1e-3)

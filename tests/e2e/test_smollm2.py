"""The whole program on a real pretrained model: every figure here comes from SmolLM2-135M, none from random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from unipruning_core.cli.main import main
from unipruning_core.data.calibration import calibration_batches
from unipruning_core.data.text import load_text
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.search.run_folder import Run
from unipruning_core.storage.ownership import MARKER
from unipruning_core.tools.demo.assets import demo_model, demo_texts

pytestmark = pytest.mark.e2e

SPARSITIES = {"50%": "50", "60%/row": "60-row", "70%/global": "70-global", "2:4": "2-4"}
LAYERS = 30 * 7


def words(samples, seq_len):
    return ["--data", str(demo_texts()[0]), "--samples", str(samples), "--seq-len", str(seq_len)]


@pytest.fixture(scope="module")
def model() -> Path:
    return demo_model()


@pytest.fixture(scope="module")
def drifted(model, tmp_path_factory):
    """One search, and every sparsity read off it."""
    folder = tmp_path_factory.mktemp("drift")
    assert main(["search", str(model), *words(4, 256), "--mode", "drift", "--out", str(folder / "run")]) == 0
    asked = [word for sparsity in SPARSITIES for word in ("--sparsity", sparsity)]
    assert main(["project", str(model), str(folder / "run"), *asked, "--out", str(folder / "pruned")]) == 0
    return folder


def tensors(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 the file is no mapping
            yield name, file.get_tensor(name)


@pytest.mark.parametrize(("sparsity", "slug"), SPARSITIES.items())
def test_counts_are_exact_and_nothing_else_changed(model, drifted, sparsity, slug):
    masks = read_masks(drifted / "pruned" / slug)
    original = dict(tensors(model))
    kept = total = 0
    for name, pruned in tensors(drifted / "pruned" / slug):
        if name not in {target.name for target in masks.targets}:
            assert torch.equal(pruned, original[name]), name
            continue
        mask = masks.read(name)
        assert torch.equal(pruned, torch.where(mask, original[name], torch.zeros((), dtype=pruned.dtype))), name
        assert not torch.signbit(pruned[~mask]).any()
        kept, total = kept + int(mask.sum()), total + mask.numel()
        if sparsity == "50%":
            assert int(mask.sum()) == mask.numel() // 2
        elif sparsity == "60%/row":
            assert (mask.sum(dim=1) == round(0.4 * mask.shape[1])).all()
        elif sparsity == "2:4":
            assert (mask.unflatten(1, (-1, 4)).sum(dim=-1) == 2).all()
    assert len(masks.targets) == LAYERS
    if sparsity == "70%/global":
        assert kept == round(total * 3 / 10)


@pytest.mark.parametrize("slug", SPARSITIES.values())
def test_each_output_reloads_and_generates(drifted, slug):
    folder = drifted / "pruned" / slug
    pruned, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert pruned.dtype == torch.bfloat16
    ids = tokenizer("The capital of France is", return_tensors="pt")
    out = pruned.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert len(tokenizer.decode(out[0])) > len("The capital of France is")


def test_pruning_half_costs_little_and_more_costs_more(model, drifted, capsys):
    def perplexity(folder):
        measure = ["--data", str(demo_texts()[1]), "--seq-len", "512", "--windows", "6", "--json"]
        assert main(["perplexity", str(folder), *measure]) == 0
        return json.loads(capsys.readouterr().out)["perplexity"]

    dense, half, most = (perplexity(folder) for folder in (model, drifted / "pruned/50", drifted / "pruned/70-global"))
    assert dense < half < most
    assert half < 6 * dense


def test_frozen_wanda_is_wanda(model, tmp_path):
    """Element for element, wherever the two weights at the boundary of a row differ by more than rounding."""
    search = [
        "search",
        str(model),
        *words(4, 512),
        "--mode",
        "frozen",
        "--metric",
        "wanda",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(search) == 0
    assert (
        main(["project", str(model), str(tmp_path / "run"), "--sparsity", "50%/row", "--out", str(tmp_path / "p")]) == 0
    )
    masks = read_masks(tmp_path / "p")

    # Wanda in a few lines of its own, in double precision
    # in what the search loaded it in, which a CPU may choose
    dtype = getattr(torch, Run.open(tmp_path / "run").description["data"]["dtype"])
    wanted = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    batches = calibration_batches(load_text(str(demo_texts()[0])), tokenizer, samples=4, seq_len=512, seed=0).batches
    sums = {}

    def hook(name):
        def add(_, args):
            sums[name] = sums.get(name, 0) + args[0][0].double().square().sum(0)

        return add

    linears = {n: m for n, m in wanted.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n}
    for name, module in linears.items():
        module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for batch in batches:
            wanted(batch)
    differing_rows = rows = 0
    for name, module in linears.items():
        score = module.weight.detach().double().abs() * (sums[name] / (4 * 512)).sqrt()
        order = score.sort(dim=1, descending=True, stable=True)
        keep = score.shape[1] // 2
        wanda = torch.zeros_like(score, dtype=torch.bool).scatter_(1, order.indices[:, :keep], True)
        differing = (wanda != masks.read(f"{name}.weight")).any(dim=1)
        # of the rows that differ, the last kept and the first dropped must agree to fp32 rounding
        last, first = order.values[:, keep - 1], order.values[:, keep]
        assert ((last - first)[differing] <= 1e-6 * last[differing]).all(), name
        differing_rows, rows = differing_rows + int(differing.sum()), rows + len(score)
    assert len(linears) == LAYERS
    assert differing_rows <= rows / 5000


def test_two_runs_give_the_same_bytes(model, drifted, tmp_path):
    assert main(["search", str(model), *words(4, 256), "--mode", "drift", "--out", str(tmp_path / "run")]) == 0
    for name in ("run.json", "dual.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (drifted / "run" / name).read_bytes()
    assert main(["project", str(model), str(tmp_path / "run"), "--sparsity", "2:4", "--out", str(tmp_path / "p")]) == 0
    for path in sorted((drifted / "pruned" / "2-4").iterdir()):
        assert (tmp_path / "p" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_state_is_two_files_that_hold_v_in_float32_and_a_marker(drifted):
    run = Run.open(drifted / "run")
    assert {path.name for path in (drifted / "run").iterdir()} == {"run.json", "dual.safetensors", MARKER}
    assert len(run.targets) == LAYERS
    assert all(info.dtype == torch.float32 for info in run.tensors.values())
    assert all(entry["steps"] == 4 and entry["threshold"] > 0 for entry in run.description["targets"])

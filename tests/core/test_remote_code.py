"""Code that a model's config asks for: not run, unless it is trusted."""

import json
import shutil

import pytest
from _image_text import save_image_text

from unipruning_core.errors import CheckpointError
from unipruning_core.models.outline import load_config, outline
from unipruning_core.models.remote_code import check_implementations

KERNELS = ["owner/kernels", "owner/kernels@main:attention", "paged|owner/kernels"]


def with_member(folder, name, value):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content[name] = value
    path.write_text(json.dumps(content))


@pytest.fixture
def model(home, tmp_path):
    return shutil.copytree(home / "model", tmp_path / "model")


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_a_config_that_asks_for_kernels_on_the_hub_is_refused_by_name(model, home, refused, name, kernels):
    with_member(model, name, kernels)
    said = f"asks for the code of {kernels!r} on the hub; pass --trust-remote-code if you trust its code"
    words = ("--data", home / "text.txt", "--seq-len", "16", "--windows", "2")
    assert said in refused("perplexity", model, *words)
    for command in ("plan", "targets"):
        assert said in refused(command, model)


def test_an_adapter_which_only_some_installations_would_apply_is_refused(model, home, refused):
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
    words = ("--data", home / "text.txt", "--seq-len", "16", "--windows", "2")
    assert "has an adapter in 'adapter_config.json'" in refused("perplexity", model, *words)


@pytest.mark.parametrize("kept", ["eager", "sdpa"])
def test_an_implementation_of_the_library_is_kept(model, kept):
    with_member(model, "attn_implementation", kept)
    assert load_config(str(model))._attn_implementation == kept
    assert outline(str(model)).targets


def test_the_config_of_a_part_is_looked_at_too(tmp_path):
    save_image_text(tmp_path, "llava")
    config = load_config(str(tmp_path / "model"))
    check_implementations("m", config)
    config.get_text_config()._attn_implementation = KERNELS[0]
    with pytest.raises(CheckpointError, match="asks for the code of 'owner/kernels'"):
        check_implementations("m", config)

"""Models of a revision on the hub, from a cache of two; the hub itself is never reached."""

import json
import shutil

import pytest
import torch
from _checkpoints import changed, save_llama, save_text, save_tokenizer
from _folders import SEARCH, succeed

import unipruning
from unipruning_core.errors import UnipruningError
from unipruning_core.models.hub import check_revision, resolve_model
from unipruning_core.models.outline import outline
from unipruning_core.storage.documents import sealed, unsealed
from unipruning_core.storage.layout import revision_of
from unipruning_core.tools.demo import demo

NAME = "owner/tiny"
OLD, NEW = "0" * 39 + "1", "a" * 40
HALF = ("--sparsity", "50%")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub's cache with a model whose tag ``v1`` and branch ``main`` have different weights."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--owner--tiny"
    for factor, commit in ((1, OLD), (2, NEW)):
        folder = save_llama(repository / "snapshots" / commit, dtype=torch.float32)
        changed(folder, lambda tensors, factor=factor: tensors["model.embed_tokens.weight"].mul_(factor))
        save_tokenizer(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(OLD)
    (repository / "refs" / "main").write_text(NEW)
    save_text(cache / "text.txt")
    return cache


@pytest.fixture(autouse=True)
def hub(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


@pytest.fixture
def text(cache):
    return ("--data", cache / "text.txt")


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_revision_is_resolved_to_the_folder_of_its_commit(cache, revision, commit):
    folder = resolve_model(NAME, revision=revision)
    assert folder == cache / "models--owner--tiny" / "snapshots" / commit
    assert revision_of(folder) == commit


@pytest.mark.parametrize("path", [f"snapshots/{NEW}", f"models--a--b/{NEW}", "models--a--b/snapshots/main"])
def test_a_folder_that_is_not_in_a_hub_cache_has_no_revision(tmp_path, path):
    assert revision_of(tmp_path / path) is None


def test_the_commit_is_recorded_from_the_search_to_the_pruned_checkpoint(text, tmp_path):
    succeed("search", NAME, "--revision", "v1", *text, *SEARCH, "--out", tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["model"]["name"], run["model"]["revision"]) == (NAME, OLD)
    succeed("project", NAME, tmp_path / "run", "--revision", OLD, *HALF, "--out", tmp_path / "pruned")
    report = json.loads((tmp_path / "pruned" / "unipruning.json").read_text())
    assert report["model_revision"] == report["provenance"]["model"]["revision"] == OLD


def test_sparsegpt_records_the_commit_too(text, tmp_path):
    words = ("--revision", "v1", *HALF, *text, "--samples", "2", "--seq-len", "16", "--out", tmp_path / "out")
    succeed("compare-sparsegpt", NAME, *words)
    assert json.loads((tmp_path / "out" / "unipruning.json").read_text())["model_revision"] == OLD


def test_another_revision_than_the_one_searched_is_refused(text, tmp_path, refused):
    succeed("search", NAME, "--revision", "v1", *text, *SEARCH, "--out", tmp_path / "run")
    assert "was made from another model" in refused(
        "project", NAME, tmp_path / "run", *HALF, "--out", tmp_path / "pruned"
    )


def test_a_run_of_before_revisions_were_recorded_is_reused(text, tmp_path, capsys):
    words = ["prune", NAME, *text, *SEARCH, *HALF, "--run", tmp_path / "run"]
    succeed(*words, "--out", tmp_path / "first")
    path = tmp_path / "run" / "run.json"
    content = unsealed(json.loads(path.read_text()))
    assert content["model"].pop("revision") == NEW
    path.write_text(json.dumps(sealed(content)))
    succeed(*words, "--out", tmp_path / "second")
    assert "reusing the finished search" in capsys.readouterr().err


def test_a_recorded_revision_that_is_no_commit_is_damage(text, tmp_path, refused):
    succeed("search", NAME, *text, *SEARCH, "--out", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    content = unsealed(json.loads(path.read_text()))
    content["model"]["revision"] = "../main"
    path.write_text(json.dumps(sealed(content)))
    assert "'revision' is '../main'" in refused("project", NAME, tmp_path / "run", *HALF, "--out", tmp_path / "out")


def test_a_named_tokenizer_of_the_same_model_is_of_the_same_revision(cache, text, tmp_path, refused):
    folder = cache / "models--owner--tiny" / "snapshots" / NEW
    for path in folder.glob("tokenizer*"):
        shutil.move(path, tmp_path / path.name)
    try:
        words = ["perplexity", NAME, *text, "--tokenizer", NAME, "--seq-len", "16", "--windows", "2"]
        succeed(*words, "--revision", "v1")
        assert "no tokenizer files" in refused(*words)
    finally:
        for path in tmp_path.glob("tokenizer*"):
            shutil.move(path, folder / path.name)


def test_a_comparison_pins_one_revision_for_all_its_commands(text, tmp_path, commands, monkeypatch):
    seen = []
    words = ["compare", NAME, "--methods", "magnitude", *HALF, *text, "--samples", "2", "--seq-len", "16"]
    words += ["--eval-data", text[1], "--eval-seq-len", "16", "--windows", "2", "--out", tmp_path / "out"]

    def pinned(model, **options):
        seen.append(options["revision"])
        return resolve_model(model, **options)

    monkeypatch.setattr("unipruning_core.models.loading.resolve_model", pinned)
    succeed(*words, "--revision", "v1")
    assert {"search", "project", "perplexity"} <= set(commands)
    assert seen == ["v1", *[OLD] * (len(seen) - 2), None], "the last one measures the pruned folder"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["revision"] == OLD


def test_a_demonstration_pins_the_revision_in_all_its_commands(text, commands, monkeypatch):
    monkeypatch.setattr(demo, "EVALUATION_WINDOW", 16)
    sizes = ("--samples", "2", "--seq-len", "16", "--windows", "2", "--sparsity", "50%")
    succeed("demo", "--model", NAME, "--revision", "v1", *text, "--eval-data", text[1], *sizes)
    assert commands == ["search", "project", "perplexity"]
    with pytest.raises(AssertionError):
        succeed("demo", "--model", NAME, "--revision", "v2", *text, "--eval-data", text[1], *sizes)


def test_the_python_functions_take_a_revision(text, tmp_path):
    run = unipruning.search(NAME, revision="v1", data=text[1], samples=2, seq_len=16, out=tmp_path / "run")
    assert run.description["model"]["revision"] == OLD
    options = {"data": text[1], "seq_len": 16, "windows": 2}
    old, new = (unipruning.perplexity(NAME, revision=revision, **options) for revision in ("v1", "main"))
    assert old.perplexity != new.perplexity


@pytest.mark.parametrize("command", ["targets", "plan"])
def test_a_command_that_reads_the_config_alone_takes_a_revision(command, refused):
    succeed(command, NAME, "--revision", "v1")
    said = refused(command, NAME, "--revision", "v2")
    assert "neither a local folder nor in the cache" in said
    assert "built in are llama-2-7b, " in said


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type, layers_more = "own", {more}


class Own(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        config.num_hidden_layers += {more}
        super().__init__(config)
"""


def test_the_code_of_a_model_is_of_the_same_revision_as_its_config(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    repository = shutil.copytree(cache / "models--owner--tiny", tmp_path / "hub" / "models--owner--tiny")
    for more, commit in ((1, OLD), (2, NEW)):
        folder = repository / "snapshots" / commit
        (folder / "own.py").write_text(CODE.format(more=more))
        config = json.loads((folder / "config.json").read_text())
        code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": code}))
    layers = {None: 4, "v1": 3}
    for revision, expected in layers.items():
        found = outline(NAME, trust_remote_code=True, revision=revision)
        assert len(found.targets) == 7 * expected


@pytest.mark.parametrize("revision", ["", "../main", "a..b", "-x", "a b", "/etc", "a\nb", "a\\b"])
def test_what_cannot_be_a_revision_is_refused(revision):
    with pytest.raises(UnipruningError, match="must be a branch, a tag or a commit"):
        check_revision([NAME], revision)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "release/1+2", NEW])
def test_what_can_be_a_revision_is_taken(revision):
    check_revision([NAME, "."], revision)


def test_a_revision_of_what_is_not_on_the_hub_is_refused(single, text, tmp_path, refused):
    out, run = ["--out", tmp_path / "out"], tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    searched = ["--revision", "v1", *text, *out]
    for words in (
        ["search", single, *searched],
        ["prune", single, *HALF, *searched],
        ["project", single, run, "--revision", "v1", *HALF, *out],
        ["dequantize", single, "--revision", "v1", *out],
        ["allocate", single, run, "--revision", "v1", "--scheme", "owl", *HALF, *out],
        ["perplexity", single, "--revision", "v1", *text],
        ["compare", single, "--methods", "magnitude", *HALF, *searched],
        ["compare-sparsegpt", single, *HALF, *searched],
        ["demo", "--model", single, "--revision", "v1"],
        ["targets", single, "--revision", "v1"],
        ["plan", "llama-2-7b", "--revision", "v1"],
        ["bench", "--model", "llama-2-7b", "--revision", "v1"],
    ):
        assert "--revision 'v1' is for a model on the hub, and " in refused(*words)
    for command in ("bench", "demo"):
        assert "name it with --model" in refused(command, "--revision", "v1")
    with pytest.raises(UnipruningError, match="for a model on the hub"):
        unipruning.perplexity(single, revision="v1", data=text[1])


def test_a_revision_of_two_models_is_refused(text, refused):
    assert "run the command once for each" in refused("perplexity", NAME, "owner/other", "--revision", "v1", *text)

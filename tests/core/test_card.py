"""Model cards beside pruned checkpoints: what they say, figures put into them, and their way to the hub."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import pytest
from _checkpoints import changed, save_home
from _folders import succeed
from huggingface_hub import ModelCard

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.projection.card import base_metadata, card_text
from unipruning_core.projection.report import read_report

BASE = """---
license: apache-2.0
language: [en]
tags: [chat]
model-index: []
---

# The base
"""
SEARCH = ["--samples", "4", "--seq-len", "16", "--ramp-sparsity", "0.4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with a card, and what ``prune`` made of it."""
    folder = save_home(tmp_path_factory.mktemp("made"))
    (folder / "model" / "README.md").write_text(BASE)
    text = ["--data", folder / "text.txt", "--exclude", "*.1.mlp.*"]
    succeed("prune", folder / "model", *text, *SEARCH, "--sparsity", "50%", "--out", folder / "pruned")
    return folder


@pytest.fixture
def pruned(made, tmp_path):
    return shutil.copytree(made / "pruned", tmp_path / "pruned")


def test_the_card_has_the_licence_of_the_base_whose_card_is_kept(made):
    card = ModelCard.load(made / "pruned" / "README.md")
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("apache-2.0", ["en"], "text-generation")
    assert card.data.tags == ["pruned", "sparse", "unipruning"]
    assert card.data.base_model is None  # a folder is no model of the hub
    assert (made / "pruned" / "README.base.md").read_text() == BASE
    assert str(made) not in card.content
    overall = read_report(made / "pruned")["overall"]
    assert f"{overall['total'] - overall['kept']:,} of {overall['total']:,} weights" in card.content


def test_its_commands_make_the_same_masks(made, tmp_path, monkeypatch):
    card = (made / "pruned" / "README.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^unipruning .*", card, re.M)]
    assert [words[1] for words in commands] == ["search", "project"]
    shutil.copytree(made / "model", tmp_path / "model")
    shutil.copy(made / "text.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in commands:
        assert main(words[1:]) == 0
    for name in ("unipruning.masks", "model.safetensors"):
        assert (tmp_path / "pruned" / name).read_bytes() == (made / "pruned" / name).read_bytes()


def test_a_model_of_the_hub_has_its_commit_and_a_compiled_search_its_flag(made):
    report = read_report(made / "pruned")
    report["model_revision"] = "0" * 40
    report["provenance"]["model"]["name"] = "owner/model"
    text = card_text(report, {})
    assert "base_model: owner/model\n" in text
    assert f"--revision {'0' * 40}" in text
    report["provenance"]["compilation"] = True
    assert ("--compile" in text, " --compile --out run\n" in card_text(report, {})) == (False, True)


def test_scores_of_ones_own_have_no_command(made):
    report = read_report(made / "pruned")
    report["provenance"] = {"mine": True}
    text = card_text(report, {"license": "mit"})
    assert "unipruning search" not in text
    assert "| licence | mit |" in text


@pytest.mark.parametrize(
    "text",
    [
        "no front matter",
        "---\nlicense: [unclosed\n---\n",
        "---\nlicense: {a: 1}\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
        "\xff",
    ],
)
def test_a_card_that_says_nothing_usable_gives_nothing(tmp_path, text):
    (tmp_path / "README.base.md").write_bytes(text.encode("latin-1"))
    assert base_metadata(tmp_path / "README.base.md") == {}
    assert base_metadata(tmp_path / "none") == {}


def test_what_is_pruned_again_keeps_the_card_of_the_first_model(made, tmp_path):
    text = ["--data", made / "text.txt", *SEARCH]
    succeed("prune", made / "pruned", *text, "--sparsity", "70%", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "README.base.md").read_text() == BASE
    assert "pruned to 70%" in (tmp_path / "again" / "README.md").read_text()


def results_for(folder, place, **figures):
    """A results.json as eval writes it, of a dense model and of this folder."""
    from unipruning_core.storage.checkpoint import Checkpoint

    acc = {"acc,none": 0.25, "acc_stderr,none": 0.03125, "acc_difference,none": -0.125} | figures
    text = {"windows": 8, "perplexity": 12.5, "perplexity_stderr": None, "perplexity_difference": 2.0}
    model = {"model": "pruned", "fingerprint": Checkpoint.open(folder).fingerprint()}
    dense = {"model": "some/dense", "fingerprint": "0" * 64, "tasks": {}, "perplexity": {}}
    place.write_text(json.dumps({"models": [dense, {**model, "tasks": {"pick": acc}, "perplexity": {"a/b": text}}]}))
    return place


def test_figures_of_these_weights_are_put_between_the_marks(pruned, tmp_path):
    card = pruned / "README.md"
    card.write_text(f"{card.read_text()}\nMy own words.\n")
    before = card.read_text()
    results = results_for(pruned, tmp_path / "results.json")
    assert main(["card", str(pruned), "--results", str(results)]) == 0
    text = card.read_text()
    assert "| pick | acc | 0.25 ± 0.03125 | -0.125 |" in text
    assert "| b | perplexity, 8 windows | 12.5 | +2 |" in text
    assert "difference to dense" in text
    assert text.partition("<!-- figures -->")[0] == before.partition("<!-- figures -->")[0]
    assert text.endswith("My own words.\n")
    assert main(["card", str(pruned), "--results", str(results)]) == 0
    assert card.read_text() == text


def test_names_in_results_stay_in_their_cells(pruned, tmp_path):
    results = results_for(pruned, tmp_path / "results.json")
    content = json.loads(results.read_text())
    figures = content["models"][1]["tasks"]
    figures["a | b\n<!-- end of figures --><script>"] = figures.pop("pick")
    content["models"][0]["model"] = "x|\n<img src=x>"
    results.write_text(json.dumps(content))
    before = (pruned / "README.md").read_text()
    assert main(["card", str(pruned), "--results", str(results)]) == 0
    text = (pruned / "README.md").read_text()
    assert "| a _ b__!-- end of figures --__script_ | acc | 0.25 ± 0.03125 | -0.125 |" in text
    assert "difference to x___img src=x_ |" in text
    assert text.partition("<!-- end of figures -->")[2] == before.partition("<!-- end of figures -->")[2]


def test_a_card_keeps_its_line_ends_and_is_whole_or_as_it_was(pruned, tmp_path, refused, monkeypatch):
    card = pruned / "README.md"
    card.write_bytes(before := card.read_bytes().replace(b"\n", b"\r\n"))
    results = results_for(pruned, tmp_path / "results.json")
    with monkeypatch.context() as full:

        def fsync(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr("os.fsync", fsync)
        assert "could not be written: No space left" in refused("card", pruned, "--results", results)
    assert card.read_bytes() == before
    assert not (pruned / "README.md.partial").exists()
    assert main(["card", str(pruned), "--results", str(results)]) == 0
    assert card.read_bytes().startswith(before.partition(b"<!-- figures -->")[0])
    assert card.read_bytes().endswith(before.partition(b"<!-- end of figures -->")[2])


@pytest.mark.parametrize(
    ("part", "content"), [("tasks", [1]), ("tasks", "text"), ("tasks", None), ("perplexity", [1]), ("perplexity", {})]
)
def test_figures_of_another_shape_are_refused(pruned, tmp_path, refused, part, content):
    results = results_for(pruned, tmp_path / "results.json")
    whole = json.loads(results.read_text())
    whole["models"][1][part] = {"a": content}
    results.write_text(json.dumps(whole))
    assert "are none of an evaluation" in refused("card", pruned, "--results", results)


def test_figures_of_other_weights_are_refused(pruned, made, tmp_path, refused):
    results = results_for(made / "model", tmp_path / "results.json")
    before = (pruned / "README.md").read_bytes()
    assert "has no figures of the weights" in refused("card", pruned, "--results", results)
    assert (pruned / "README.md").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"), [("[]", "are none of an evaluation"), ("{", "are none"), (None, "cannot be read: No such")]
)
def test_results_that_are_none_are_refused(pruned, tmp_path, refused, content, said):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert said in refused("card", pruned, "--results", tmp_path / "results.json")


def test_a_card_without_the_marks_is_left_alone(pruned, tmp_path, refused):
    (pruned / "README.md").write_text("mine")
    error = refused("card", pruned, "--results", results_for(pruned, tmp_path / "results.json"))
    assert "put the lines <!-- figures --> and <!-- end of figures -->" in error
    assert (pruned / "README.md").read_text() == "mine"


def test_a_card_with_words_of_ones_own_is_not_overwritten(made, pruned, tmp_path, refused):
    again = ["project", made / "model", made / "pruned-run", "--sparsity", "50%", "--out", pruned, "--overwrite"]
    results = results_for(pruned, tmp_path / "results.json")
    assert main(["card", str(pruned), "--results", str(results)]) == 0
    succeed(*again)  # figures can be put in again
    (pruned / "README.md").write_text((pruned / "README.md").read_text() + "Mine.\n")
    assert "or have other words now: 'README.md'" in refused(*again)
    assert (pruned / "README.md").read_text().endswith("Mine.\n")
    (pruned / "README.md").unlink()
    succeed(*again)


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the hub."""
    import huggingface_hub

    asked = []

    class Api:
        def create_repo(self, name, **how):
            asked.append(("create_repo", name, how))
            return SimpleNamespace(repo_id=f"me/{name}")

        def create_branch(self, name, **how):
            asked.append(("create_branch", name, how))

        def upload_folder(self, **how):
            asked.append(("upload_folder", how["repo_id"], how))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


def test_a_dry_run_lists_the_files_and_asks_nothing(pruned, hub, capsys):
    (pruned / "model.safetensors.partial").write_text("half")
    assert main(["push", str(pruned), "name", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "would go to name" in printed.out
    assert "partial" not in printed.out
    assert {"README.md", "README.base.md", "unipruning.masks"} <= set(printed.out.split())
    assert "names places of this machine" in printed.err
    assert hub == []


def test_a_push_sends_every_file_to_the_branch(pruned, hub, tmp_path):
    results = results_for(pruned, tmp_path / "results.json")
    sent = unipruning.push(pruned, "name", results=results, private=True, branch="b", progress=False)
    assert (sent.repository, sent.address) == ("me/name", "https://hub/commit")
    assert hub[0] == ("create_repo", "name", {"private": True, "exist_ok": True})
    assert hub[1] == ("create_branch", "me/name", {"branch": "b", "exist_ok": True})
    how = hub[2][2]
    assert (how["folder_path"], how["revision"]) == (pruned, "b")
    assert "50%" in how["commit_message"]
    assert how["allow_patterns"] == sorted(path.name for path in pruned.iterdir())
    assert "± 0.03125" in (pruned / "README.md").read_text()


def test_what_is_damaged_or_without_a_card_is_not_sent(pruned, hub, refused):
    masks = bytearray((pruned / "unipruning.masks").read_bytes())
    masks[-1] ^= 1
    (pruned / "unipruning.masks").write_bytes(masks)
    assert "unipruning.masks" in refused("push", pruned, "name")
    masks[-1] ^= 1
    (pruned / "unipruning.masks").write_bytes(masks)
    (pruned / "README.md").unlink()
    assert "has no README.md" in refused("push", pruned, "name")
    assert hub == []


def test_weights_that_are_not_as_they_were_pruned_are_not_sent(pruned, hub, refused):
    changed(pruned, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"].add_(1))
    assert "'model.layers.0.mlp.up_proj.weight'" in refused("push", pruned, "name", "--dry-run")
    assert hub == []


def test_an_error_of_the_hub_is_one_sentence(pruned, hub, refused, monkeypatch):
    import huggingface_hub

    def create_repo(*_, **__):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    error = refused("push", pruned, "name")
    assert "'name' cannot be written: 401 Unauthorized" in error
    assert "hf auth login" in error

"""Pruned checkpoints in other formats: the formats installed, what is refused, the record, and a plain copy."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from _checkpoints import FakeScores, content, parsed, save_llama
from safetensors.torch import load_file, save_file

import unipruning
from unipruning_core import ExporterSpec, Probe, hookimpl, registry
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export import job
from unipruning_core.export.contract import Exporter
from unipruning_core.export.registry import Formats
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.files import sha256
from unipruning_cpu.backend import CpuBackend


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned checkpoint in shards, never changed."""
    place = tmp_path_factory.mktemp("export")
    checkpoint = Checkpoint.open(save_llama(place / "model", shards=True))
    project(checkpoint, FakeScores(checkpoint), parsed("50%"), place / "out", CpuBackend())
    return place / "out"


class Listed(Exporter):
    """A format of a third party: the names of the matrices."""

    def size(self, source, choice):
        return 1

    def write(self, source, choice, folder, progress):
        names = [target.name for target in source.masks.targets if source.matrix(target).shape == target.shape]
        (folder / "names.txt").write_text("\n".join([choice.type, *names]))
        return {"matrices": len(names)}


SPEC = ExporterSpec(
    "names", "the names", "all", "nothing", f"{__name__}:Listed", lambda: Probe(True, "here"), ("short", "odd"), {"odd"}
)


@pytest.fixture
def third_party(monkeypatch):
    """Add a plugin to those installed."""
    real = registry.entry_points

    def install(plugin, name="names"):
        point = SimpleNamespace(name=name, value=f"package_of_{name}", load=lambda: plugin)
        monkeypatch.setattr(registry, "entry_points", lambda group: [*real(group=group), point])

    return install


def plugin(spec=SPEC):
    return SimpleNamespace(unipruning_exporter=hookimpl(lambda: spec))


def test_formats_of_the_project_are_installed_and_described():
    formats = Formats()
    assert formats.broken == {}
    assert {"safetensors", "packed"} <= set(formats.specs)
    for spec in formats.specs.values():
        probe = formats.probe(spec)
        assert all((spec.what, spec.smaller, spec.faster, probe.detail))
        if probe.available:
            assert isinstance(Formats.load(spec), Exporter)


def test_a_format_of_a_third_party_is_listed_and_writes(third_party, pruned, tmp_path, capsys):
    third_party(plugin())
    assert main(["export", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "names: the names\n  available  yes, here\n  types      short, odd (loses zeros)\n" in shown
    assert main(["export", str(pruned), "--to", "names", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"names short: {tmp_path / 'out'} (")
    names = (tmp_path / "out" / "names.txt").read_text().splitlines()
    assert names == ["short", *(target.name for target in unipruning.read_masks(pruned).targets)]


def test_the_format_of_the_documentation_works(third_party, pruned, tmp_path, monkeypatch):
    document = (Path(__file__).parents[2] / "docs" / "after-pruning.md").read_text()
    text = document.partition("### A format of your own")[2]
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)):
        module = ModuleType(["my_package", "my_package.counts"][number])
        exec(code, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    third_party(sys.modules["my_package"], "counts")
    assert unipruning.export(pruned, tmp_path / "out", "counts", progress=False).details == {"matrices": 14}
    weight = Checkpoint.open(pruned).read(name := unipruning.read_masks(pruned).targets[0].name)
    first = (tmp_path / "out" / "counts.txt").read_text().splitlines()[0]
    assert first == f"{name} {int((weight != 0).sum())}"


def test_a_broken_plugin_is_listed_and_fatal_only_when_asked_for(third_party, capsys, refused):
    third_party(SimpleNamespace(), "faulty")
    assert main(["export", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["broken"] == {"faulty": "AttributeError: it implements no unipruning_exporter hook"}
    assert {row["name"] for row in listed["formats"]} >= {"safetensors", "packed"}
    assert "the plugin of the format 'faulty' failed to load" in refused("export", "x", "--to", "faulty", "--out", "y")


def test_two_plugins_of_one_name_are_an_error(third_party):
    third_party(plugin(replace(SPEC, name="packed")))
    with pytest.raises(ConfigError, match="two installed plugins provide the format 'packed'; uninstall one"):
        Formats()


def test_a_format_cannot_lose_zeros_in_a_type_that_it_lacks():
    with pytest.raises(ValueError, match=r"types lose zeros which it lacks: \['none'\]"):
        replace(SPEC, losing=frozenset({"none"}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "namse"], "no format is called 'namse'; installed: "),
        (["--to", "safetensor"], "; did you mean 'safetensors'?"),
        (["--to", "names", "--type", "shorty"], "; did you mean 'short'?"),
        (["--to", "names", "--type", "long"], "--type of names must be one of short, odd, not 'long'"),
        (["--to", "names", "--type", "odd"], "odd turns the zeros of pruned weights into other numbers; choose one of"),
        (["--to", "packed", "--type", "odd"], "--type is for formats of several types, and packed has one"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_read(third_party, words, message, refused):
    third_party(plugin())
    assert message in refused("export", "nowhere", *words, "--out", "out")


def test_a_format_whose_package_is_missing_says_what_to_install(third_party, refused):
    third_party(plugin(replace(SPEC, probe=lambda: Probe(False, "it needs the package x; pip install x"))))
    assert "'names' cannot be written here: it needs the package x; pip install x" in refused(
        "export", "nowhere", "--to", "names", "--out", "out"
    )
    third_party(plugin(replace(SPEC, probe=lambda: 1 / 0)))
    assert "its probe failed: division by zero" in refused("export", "nowhere", "--to", "names", "--out", "out")


def test_a_type_that_loses_zeros_is_written_when_forced(third_party, pruned, tmp_path):
    third_party(plugin())
    done = unipruning.export(pruned, tmp_path / "out", "names", type="odd", force=True, progress=False)
    assert (done.type, done.details) == ("odd", {"matrices": 14})


def test_what_is_missing_or_in_the_way_is_refused(pruned, tmp_path, refused):
    assert "export needs the folder to write, as --out DIR; pass it" in refused("export", pruned)
    assert "export needs the folder to export; pass it" in refused("export", "--out", "x")
    assert "is not a folder; pass a folder that 'unipruning project' wrote" in refused("export", "x", "--out", "y")
    assert f"output {str(pruned)!r} exists" in refused("export", pruned, "--out", pruned)
    assert "overlap; choose another output" in refused("export", pruned, "--out", pruned / "inside")
    assert "has no unipruning.masks" in refused("export", pruned.parent / "model", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert not (pruned / "inside").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(pruned, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "bytes, but its disk has 1000 free" in refused("export", pruned, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_has_the_bytes_of_all_but_masks_and_report_and_its_record_their_checksums(pruned, tmp_path, capsys):
    assert main(["export", str(pruned), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    here, there = content(pruned), content(tmp_path / "out")
    record = json.loads(there.pop(job.RECORD_FILE))
    assert there == {name: what for name, what in here.items() if not name.startswith("unipruning")}
    assert record["files"] == {name: sha256(tmp_path / "out" / name) for name in there}
    assert (record["to"], record["sparsity"]) == ("safetensors", "50%/matrix")
    assert printed["bytes"] == sum(map(len, there.values())) + (tmp_path / "out" / job.RECORD_FILE).stat().st_size
    unipruning.export(pruned, tmp_path / "again", progress=False)
    assert content(tmp_path / "again") == content(tmp_path / "out")


@pytest.mark.parametrize("with_report", [True, False])
def test_a_weight_that_is_not_as_it_was_pruned_is_refused_and_nothing_is_left(with_report, tmp_path):
    checkpoint = Checkpoint.open(save_llama(tmp_path / "model"))
    project(checkpoint, FakeScores(checkpoint), parsed("50%"), tmp_path / "pruned", CpuBackend())
    if not with_report:
        (tmp_path / "pruned" / "unipruning.json").unlink()
    path = tmp_path / "pruned" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][(tensors[name] == 0).nonzero(as_tuple=True)] = torch.ones((), dtype=torch.bfloat16)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"'{name}' in .* is not what unipruning.json and the masks describe"):
        unipruning.export(tmp_path / "pruned", tmp_path / "out", progress=False)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model", "pruned"]

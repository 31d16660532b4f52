"""A mode owns its settings: its own are offered, others are refused, and a new mode takes one registration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from unipruning_core.cli.main import build_parser, main
from unipruning_core.errors import ConfigError
from unipruning_core.search.base import Outcome, Search
from unipruning_core.search.choice import flags, own_settings, settings_of
from unipruning_core.search.modes import MODES
from unipruning_core.search.run_folder import Run
from unipruning_core.search.settings import Settings, setting
from unipruning_core.storage.documents import sealed

VALUES = {"pattern": "2:4", "prox_pattern": "2:4", "metric": "wanda"}
OWN = {mode: {item.name for item in fields(kind)} for mode, kind in MODES.items()}
FOREIGN = [(mode, flag.name) for mode in MODES for flag in flags() if flag.name not in OWN[mode]]


@pytest.mark.parametrize(("mode", "name"), FOREIGN)
def test_a_mode_refuses_a_setting_of_another_before_anything_is_loaded(mode, name, tmp_path, capsys):
    flag = f"--{name.replace('_', '-')}"
    argv = ["search", str(tmp_path / "no-model"), "--mode", mode, flag, VALUES.get(name, "0.5")]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{flag} is for --mode " in error
    assert f"settings of --mode {mode} are " in error


def test_the_settings_that_not_all_modes_have_are_covered():
    assert {name for _, name in FOREIGN} >= {"coupling", "prox_strength", "ramp_sparsity", "learning_rate", "quantile"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "much", True])
def test_a_value_that_is_not_a_number_in_range_is_refused(mode, value):
    for item in fields(MODES[mode]):
        if item.type == "float":
            with pytest.raises(ConfigError, match="--" + item.name.replace("_", "-")):
                settings_of(mode, {item.name: value})


@pytest.mark.parametrize("command", ["search", "prune", "plan"])
def test_help_states_every_default_and_range_of_every_mode(command):
    parser = build_parser()._subparsers._group_actions[0].choices[command]
    shown = " ".join(parser.format_help().split())
    for flag in flags():
        if flag.name != "seed":
            assert " ".join(flag.help.replace("%%", "%").split()) in shown
    for mode, kind in MODES.items():
        for item in fields(kind):
            if isinstance(item.default, float):
                assert f"{item.default:g}" in next(flag.help for flag in flags() if flag.name == item.name)
        assert mode in shown


def test_an_earlier_name_of_a_setting_is_still_accepted():
    assert settings_of("feedback", {"ramp_share": "0.25"}) == settings_of("feedback", {"ramp_fraction": 0.25})
    with pytest.raises(
        ConfigError, match="--ramp-share is given twice, under an earlier name too; use only --ramp-fraction"
    ):
        settings_of("feedback", {"ramp_fraction": "0.5", "ramp_share": "0.25"})


def test_the_record_of_a_search_holds_the_fields_of_its_mode(home, search_words, tmp_path):
    for mode in MODES:
        assert main(["search", *search_words, "--mode", mode, "--out", str(tmp_path / mode)]) == 0
        record = json.loads((tmp_path / mode / "run.json").read_text())["settings"]
        assert set(record) == {"mode"} | {item.name for item in fields(MODES[mode])}


def as_format_1(folder: Path, settings: dict[str, Any]) -> None:
    """Rewrite run.json as version 0.1 did: every mode's settings in one record, and no scope."""
    content = json.loads((folder / "run.json").read_text())
    del content["checksum"], content["scope"]
    content |= {"format": "unipruning-run/1", "settings": settings}
    (folder / "run.json").write_text(json.dumps(sealed(content)))


@pytest.mark.parametrize(("mode", "scope"), [("feedback", "global"), ("frozen", "matrix")])
def test_a_run_folder_of_format_1_still_projects(mode, scope, home, search_words, tmp_path):
    run = tmp_path / "run"
    assert main(["search", *search_words, "--mode", mode, "--out", str(run)]) == 0
    flat = {"mode": mode, "metric": "wanda", "step_size": 0.01, "exponent": 1.0, "pull": 0.0075, "coupling": 1e-5}
    as_format_1(run, flat)
    opened = Run.open(run)
    assert opened.scope == scope
    assert set(opened.provenance["settings"]) == set(own_settings(flat))
    assert ("local_exponent" in opened.provenance["settings"]) == (mode == "feedback")
    assert main(["project", str(home / "model"), str(run), "--sparsity", "50%", "--out", str(tmp_path / "out")]) == 0


class ToySearch(Search):
    """Scores weights by their size, whatever the text."""

    def step(self, sample: int, input_ids: Tensor) -> None:
        self.steps += 1

    def tensors(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def outcomes(self) -> Iterator[Outcome]:
        for position, layer in enumerate(self.layers):
            score = layer.weight.abs().float() ** self.settings.power
            yield Outcome(layer.target, score, torch.zeros(()), int(self.steps[position]))


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    """Settings of a mode in one file."""

    mode: ClassVar[str] = "toy"
    summary: ClassVar[str] = "keeps the largest weights"
    scope: ClassVar[Any] = "row"
    follows_loss: ClassVar[bool] = False

    power: float = setting(2.0, "exponent of the weight", within="(0, 8]")

    def search(self) -> type[ToySearch]:
        return ToySearch

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        return {"the toy's": 7}


def test_a_new_mode_is_one_registration(home, search_words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(MODES, "toy", ToySettings)
    out = tmp_path / "out"
    assert main(["prune", *search_words, "--mode", "toy", "--power", "3", "--sparsity", "50%", "--out", str(out)]) == 0
    assert "mode toy, metric stochria: keeps the largest weights" in capsys.readouterr().err
    report = json.loads((out / "unipruning.json").read_text())
    assert report["sparsity"] == "50%/row"
    assert report["provenance"]["settings"]["power"] == 3.0
    assert main(["plan", str(home / "model"), "--mode", "toy", "--seq-len", "16"]) == 0
    assert "the toy's" in capsys.readouterr().out
    help_text = build_parser()._subparsers._group_actions[0].choices["search"].format_help()
    assert "only with --mode toy" in help_text
    assert "exponent of the weight" in help_text
    assert main(["search", *search_words, "--power", "3", "--out", str(tmp_path / "run")]) == 2
    assert "--power is for --mode toy; settings of --mode feedback are" in capsys.readouterr().err

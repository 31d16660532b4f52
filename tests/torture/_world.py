"""What the commands of the torture read: tiny models, texts, and finished and unfinished work, made once."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _changes import Changes
from _server import Command, Ended

WORDS = [f"word{number}" for number in range(60)]
TEXTS = ("text.jsonl", "text.txt", "text.csv", "text.jsonl.gz", "text.jsonl.xz", "text.parquet", "ids.parquet")
MODES = ("feedback", "drift", "frozen", "coupled")
# what differs between two equal comparisons
MEASURED = ("seconds", "peak_mib", "checksum", "sha256", "load")


@dataclass(frozen=True)
class World:
    """The folder with ``model``, ``sharded``, ``TEXTS`` and ``budget.json``."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)

    def words(self, command: str, *more: str, model: str = "model", text: str = "text.jsonl") -> list[str]:
        """A search, or a command with the options of one."""
        data = ["--data", str(self.folder / text), "--samples", "4", "--seq-len", "16", "--backend", "cpu"]
        return [command, str(self.folder / model), *data, *more]


def make_world(folder: Path) -> World:
    """Make it."""
    import pyarrow
    import pyarrow.parquet
    import torch

    _save_model(folder / "model", "1GB")
    _save_model(folder / "sharded", "100KB")
    picks = torch.randint(len(WORDS), (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [" ".join(WORDS[pick] for pick in picks[start : start + 40]) for start in range(0, len(picks), 40)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    (folder / "text.txt").write_text("\n".join(texts))
    (folder / "text.csv").write_text("".join(f"{line}\n" for line in ["text,n", *(f'"{text}",1' for text in texts)]))
    (folder / "text.jsonl.gz").write_bytes(gzip.compress((folder / "text.jsonl").read_bytes(), mtime=0))
    (folder / "text.jsonl.xz").write_bytes(lzma.compress((folder / "text.jsonl").read_bytes()))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "text.parquet")
    ids = [[1 + pick for pick in picks[start : start + 40]] for start in range(0, len(picks), 40)]
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": ids}), folder / "ids.parquet")
    budget = {"overall": "60%", "default": "60%", "sparsity": {"*.mlp.*": "50%", "model.layers.0.*": "2:4"}}
    (folder / "budget.json").write_text(json.dumps(budget))
    return World(folder)


def _save_model(folder: Path, shard: str) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    # matrices of an MLP that a fingerprint does not read as a whole
    sizes = {"hidden_size": 64, "intermediate_size": 384, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def tree(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder and every empty folder, without what a comparison measures."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            found[name] = hashlib.sha256(_unmeasured(path)).hexdigest()[:12]
        elif path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            found[name] = "link" if path.is_symlink() else "empty folder"
    found.pop("tmp", None)
    return found


def _unmeasured(path: Path) -> bytes:
    content = path.read_bytes()
    if path.parent.name in ("evaluations", "searches") or path.name in ("search.json", "results.json"):
        return json.dumps(_without(json.loads(content)), sort_keys=True).encode()
    if path.name == "results.csv":
        rows = [line.split(",") for line in content.decode().splitlines()]
        kept = [i for i, name in enumerate(rows[0]) if not any(word in name for word in MEASURED)]
        return "\n".join(",".join(row[i] for i in kept) for row in rows).encode()
    return content


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if not any(word in key for word in MEASURED)}
    return [_without(item) for item in value] if isinstance(value, list) else value


def differing(found: dict[str, str], wanted: dict[str, str]) -> str | None:
    """Say in what two trees differ."""
    if found == wanted:
        return None
    extra, missing = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    other = sorted(name for name in found.keys() & wanted.keys() if found[name] != wanted[name])
    parts = [("leftover", extra), ("missing", missing), ("other bytes", other)]
    return "; ".join(f"{what}: {', '.join(names[:4])}" for what, names in parts if names)


def run(words: Sequence[str], folder: Path, limit: float = 60.0) -> Ended:
    """Run one command, in a folder that is its working folder."""
    return Command(words, folder).ended(limit)


def must(words: Sequence[str], folder: Path) -> None:
    """Run a command that prepares something."""
    if not (ended := run(words, folder, 120.0)).done:
        raise RuntimeError(f"{' '.join(words)} failed with {ended.status}: {ended.text}")


def unfinished(words: Sequence[str], template: Path) -> None:
    """Leave a search in ``run``, given with --save-every 0, as a kill leaves it with two saved states."""
    changes = Changes(template)
    Command(words, template, changes.watch).ended()
    trial = template.with_name(f"{template.name}-trial")
    for point in range(changes.count // 2, changes.count):
        shutil.rmtree(template / "run", ignore_errors=True)
        Command(words, template, Changes(template, point).watch).ended()
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(template, trial)
        if len(saved_states(template)) == 2 and re.search("after sample [1-9]", run(words, trial).text):
            shutil.rmtree(trial)
            return
    raise RuntimeError(f"two saved states were not found in {template}")


def halfway(words: Sequence[str], template: Path, needs: Sequence[str], folder: Path) -> None:
    """Leave a command that replaces ``run`` as a kill leaves it just before the old files are removed."""
    for point in range(1, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for need in needs:
            source = template / need
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / need)
        ended = Command(words, folder, Changes(folder, point).watch).ended()
        if (folder / "run" / "unfinished" / "whole").is_dir():
            shutil.rmtree(folder / "tmp", ignore_errors=True)
            return
        if ended.done:
            break
    raise RuntimeError(f"the command was never about to replace {folder / 'run'}")


def saved_states(folder: Path) -> list[Path]:
    """Return the saved states of the search in ``run``, the newest last."""
    return sorted((folder / "run" / "unfinished").glob("resume-0*"))

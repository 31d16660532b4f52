"""Files made to do harm: endless, of another kind, or well-formed and wrong."""

from __future__ import annotations

import os
from pathlib import Path

from _crafted import WEIGHTS, Crafted, cut, edit, header, nothing, put, replaced, write
from _damage import bench_words, compare_words, project_words, resumed_words, search_words

TEXT, INDEX = "text.txt", "sharded/model.safetensors.index.json"
SEARCH = search_words("model", "frozen", TEXT, "out")
SEARCH_LINES = search_words("model", "frozen", "text.jsonl", "out")
PROJECT = project_words("model", "run", "60%", "out")
BUDGET = project_words("model", "run", "@budget.json", "out")
SHARDED = project_words("sharded", "run-sharded", "60%", "out")
BENCH = bench_words("--compare", "bench.json")
NESTED = b"[" * 100_000
ENDLESS = "/dev/zero"

CONFIGS = [
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", "2"),
    ("num_hidden_layers", 7),
    ("num_attention_heads", 0),
    ("num_key_value_heads", 0),
    ("dtype", "zzz"),
    ("head_dim", 7),
    ("hidden_size", 1 << 40),
    ("vocab_size", 20),
    ("vocab_size", 1 << 40),
    ("rope_parameters", 3),
    ("model_type", ["llama"]),
    ("hidden_act", "nothing"),
    ("architectures", None),
    ("pad_token_id", 10**6),
]
RUNS = [
    ("files", {}),
    ("files", []),
    ("files", {"../../../etc/hostname": "0"}),
    ("targets", {}),
    ("targets", [3]),
    ("targets.0.threshold", "x"),
    ("targets.0.threshold", None),
    ("targets.0.threshold", True),
    ("targets.0.threshold", float("nan")),
    ("targets.0.threshold", -1.0),
    ("targets.0.shape", [64]),
    ("targets.0.shape", [64, 64, 64]),
    ("targets.0.shape", "64"),
    ("targets.0.transposed", 3),
    ("targets.0.name", 3),
    ("targets.0.name", "lm_head.weight"),
    ("settings", ...),
    ("settings.mode", []),
    ("settings.mode", "other"),
    ("model", ...),
    ("model.fingerprint", 3),
    ("scope", "everywhere"),
    ("format", 2),
]
STATES = [
    ("sample", 99),
    ("sample", 0),
    ("sample", -1),
    ("sample", "2"),
    ("sample", 1.5),
    ("sample", None),
    ("losses", ...),
    ("losses", 3),
    ("losses", [1e30]),
    ("identity", []),
    ("identity", ...),
    ("identity.data", 3),
]


def crafted_files() -> list[Crafted]:
    """Return all of them."""
    return [*_endless(), *_headers(), *_documents(), *_texts()]


def _endless() -> list[Crafted]:
    cases = []
    read = [
        ("run/dual.safetensors", PROJECT),
        ("run/run.json", PROJECT),
        (WEIGHTS, PROJECT),
        (INDEX, SHARDED),
        ("model/config.json", SEARCH),
        ("model/tokenizer.json", SEARCH),
        (TEXT, SEARCH),
        ("text.jsonl", SEARCH_LINES),
        ("budget.json", BUDGET),
        ("bench.json", BENCH),
    ]
    for name, words in read:
        cases += [
            Crafted(f"{name} is a pipe", replaced(name, os.mkfifo), words),
            Crafted(f"{name} is endless", replaced(name, lambda path: path.symlink_to(ENDLESS)), words),
            Crafted(f"{name} is a folder", replaced(name, Path.mkdir), words),
            Crafted(f"{name} is nested", write(name, NESTED), words, "any" if name == TEXT else "refused"),
        ]
    return [
        *cases,
        Crafted("--data /dev/zero", nothing, search_words("model", "frozen", ENDLESS, "out")),
        Crafted("--sparsity @/dev/zero", nothing, project_words("model", "run", f"@{ENDLESS}", "out")),
    ]


def _headers() -> list[Crafted]:
    shapes: list[list[object]] = [[0, 1 << 63], [0, 10**400], [False], [True, 0], [1 << 62, 4], [0] * 1000, [-1, 0]]
    cases = []
    for shape in shapes:
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        change = header(lambda document, entry=entry: document.update(extra=entry))
        cases.append(Crafted(f"shape {str(shape)[:24]}", change, PROJECT, "any" if len(shape) > 9 else "refused"))
    nested = len(NESTED).to_bytes(8, "little") + NESTED
    lost = edit(INDEX, lambda document: {**document, "weight_map": dict.fromkeys(document["weight_map"], "s" * 300)})
    outside = edit(
        INDEX, lambda document: {**document, "weight_map": dict.fromkeys(document["weight_map"], f"../{WEIGHTS}")}
    )
    return [
        *cases,
        Crafted("a nested header", write(WEIGHTS, nested), PROJECT),
        Crafted("a shard with a long name", lost, SHARDED),
        Crafted("a shard outside", outside, SHARDED),
        Crafted("an index of no weights", edit(INDEX, put("weight_map", {})), SHARDED),
    ]


def _documents() -> list[Crafted]:
    cases = []
    for key, value in CONFIGS:
        wanted = "any" if key in ("pad_token_id", "architectures") else "refused"
        change = edit("model/config.json", put(key, value))
        cases.append(Crafted(f"config.json: {_said(key, value)}", change, SEARCH, wanted))
    for key, value in RUNS:
        change = edit("run/run.json", put(key, value), seal=True)
        cases.append(Crafted(f"run.json: {_said(key, value)}", change, PROJECT))
    for key, value in STATES:
        change = edit("run/**/state*.json", put(key, value))
        cases.append(Crafted(f"state.json: {_said(key, value)}", change, resumed_words("drift"), base="state-drift"))
    for step in (1, -1):
        change = edit(
            "run/**/state*.json", lambda document, step=step: document.update(sample=document["sample"] + step)
        )
        cases.append(Crafted(f"state.json: sample {step:+}", change, resumed_words("drift"), base="state-drift"))
    shorter = edit("run/run.json", lambda document: document["targets"].__delitem__(slice(5, None)), seal=True)
    median = edit("bench.json", put("lines.0.median", ...))
    return [
        *cases,
        Crafted("run.json: targets cut to 5", shorter, PROJECT),
        Crafted("evaluation cut to 60 bytes", cut("table/evaluations/*.json"), compare_words(), "any"),
        Crafted("search.json cut to 60 bytes", cut("table/searches/*/search.json"), compare_words(), "any"),
        Crafted("bench baseline without a median", median, BENCH),
        Crafted("bench baseline without lines", edit("bench.json", put("lines", {})), BENCH, "any"),
        Crafted("misspelt unk_token", edit("model/tokenizer.json", put("model.unk_token", "<umk>")), SEARCH, "any"),
    ]


def _texts() -> list[Crafted]:
    parquet = search_words("model", "frozen", "text.parquet", "out")
    surrogate = b'{"text": "\\ud800 word1 word2"}\n' * 40

    def not_utf8(work: Path) -> None:
        content = bytearray((work / "text.parquet").read_bytes())
        at = content.index(b"word")
        content[at] ^= 0xFD
        (work / "text.parquet").write_bytes(content)

    return [
        Crafted("parquet that is not UTF-8", not_utf8, parquet, "any"),
        Crafted("parquet of nothing", write("text.parquet", b"PAR1PAR1"), parquet),
        Crafted("jsonl with a lone surrogate", write("text.jsonl", surrogate), SEARCH_LINES, "any"),
        Crafted("jsonl of numbers", write("text.jsonl", b'{"text": 3}\n'), SEARCH_LINES),
        Crafted(
            "jsonl with a number of 5000 digits",
            write("text.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}\n"),
            SEARCH_LINES,
        ),
        Crafted("text with NUL", write(TEXT, b"word1 \0 word2"), SEARCH),
    ]


def _said(key: str, value: object) -> str:
    return f"{key} removed" if value is ... else f"{key} = {value!r}"

"""A search and a projection in a process that may take a quarter of the checkpoint beyond what torch takes.

    python benchmarks/capped.py [--layers 96] [--mode feedback]

Writes a random Llama in float32 to a temporary folder, and limits the data of the process (RLIMIT_DATA, which counts
all private memory that can be written) before the first sample; pages of mapped files are the system's to keep or drop.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH, INNER, VOCABULARY = 512, 1536, 512
CHILD = """
import resource, sys
from unipruning_core.cli.main import main
from unipruning_core.jobs import api, results
import transformers
from transformers import AutoModelForCausalLM
import torch.distributed.fsdp, torch.distributed.tensor
def held(name):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines[name].split()[0]) * 1024
base = held("VmData")
room = int(sys.argv[1])
if room:
    resource.setrlimit(resource.RLIMIT_DATA, (base + room, base + room))
code = main(sys.argv[2:])
print(f"peak {held('VmHWM') / 2**20:.0f} MiB, data {held('VmData') / 2**20:.0f} MiB, before {base / 2**20:.0f} MiB")
sys.exit(code)
"""


def write_model(folder: Path, layers: int) -> int:
    """Write a checkpoint with a tokenizer, and return its bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="200MB")
    vocabulary = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    (folder.parent / "text.txt").write_text(" ".join(f"w{(7 * index * index) % VOCABULARY}" for index in range(4096)))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def run(room: int, *words: object) -> tuple[int, float, str]:
    """Run a command with so much room, 0 for no limit; return its code, its seconds and what it said."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", CHILD, str(room), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, time.monotonic() - began, done.stdout + done.stderr.replace("\r", "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=96)
    parser.add_argument("--mode", default="feedback")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = write_model(folder / "model", options.layers)
        room = size // 4
        print(f"checkpoint {size / 2**20:.0f} MiB, limit {room / 2**20:.0f} MiB beyond torch")
        words = ["search", folder / "model", "--data", folder / "text.txt", "--samples", "4", "--seq-len", "128"]
        words += ["--mode", options.mode, "--backend", "cpu"]
        projected = ["project", folder / "model", folder / "capped", "--backend", "cpu", "--sparsity", "60%"]
        for name, limit, command in (
            ("search without a limit", 0, [*words, "--out", folder / "whole"]),
            ("the same in its memory alone", room, [*words, "--out", folder / "refused", "--offload", "none"]),
            ("search", room, [*words, "--out", folder / "capped"]),
            ("projection", room, [*projected, "--out", folder / "pruned"]),
        ):
            code, seconds, said = run(limit, *command)
            wanted = 2 if name.startswith("the same") else 0
            failed += code != wanted
            last = [line for line in said.splitlines() if "it/s" not in line and line.strip()]
            print(f"{name}: exit {code}, {seconds:.0f} s")
            for line in last if code != wanted else [line for line in last if "peak" in line or "error" in line]:
                print(f"  {line[:300]}")
        files = [folder / name / "dual.safetensors" for name in ("whole", "capped")]
        same = all(path.exists() for path in files) and files[0].read_bytes() == files[1].read_bytes()
        print(f"the same bytes: {same}")
    return int(failed or not same)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())

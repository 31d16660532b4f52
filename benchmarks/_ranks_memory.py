"""What ``ranks_memory.py`` measures in each of its processes."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from unipruning_core.data.calibration import DataChoice
from unipruning_core.data.text import TextChoice
from unipruning_core.jobs.on_disk import search_on_disk
from unipruning_core.jobs.opened import OnDisk
from unipruning_core.models.loading import ModelChoice
from unipruning_core.models.outline import outline
from unipruning_core.progress import Progress, Task
from unipruning_core.search.modes import MODES
from unipruning_core.search.settings import Settings
from unipruning_core.tools.plan.layout import Layout, Rank, Ranks
from unipruning_core.tools.plan.trace import trace_sample
from unipruning_core.tools.plan.units import units_of

MIB, MB = 2**20, 1e6
HIDDEN, INNER, HEADS, VOCABULARY = 512, 1408, 8, 8192
TEXT = "it was not in the way that he had been there before and she could not have known of it. " * 400


def save_model(folder: Path, dtype: str, blocks: int, hidden: int = HIDDEN) -> None:
    """Write a random Llama, with the tokenizer of the demo."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from unipruning_core.tools.demo.assets import demo_model

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * INNER // HIDDEN,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=VOCABULARY,  # of which TEXT stays in the first part
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: Path) -> None:
    """Run the search that ``folder`` asks for, and write this rank's figures there."""
    task = json.loads((folder / "task.json").read_text())
    # what lies in files on disk is resident too, as long as nothing else needs the room
    kind = "VmRSS" if task["offload"] == "none" else "RssAnon"
    _search(folder, "small", task, Noted({}, kind))
    with counted() as sent:
        noted = Noted(sent, kind)
        with highest(kind) if kind != "VmRSS" else nullcontext([0]) as seen:
            rank = _search(folder, "model", task, noted)
        peak = memory("VmHWM") if kind == "VmRSS" else seen[0]
        before = sum(sent.values())
        if task["ranks"] > 1:
            _bare_step(folder.parent / "model", task)
    row: dict[str, Any] = {**task, "rank": rank, "peak": (peak - noted.start) / MIB}
    row["held"] = (max(noted.sizes) - noted.start) / MIB
    row["sent"] = (noted.sent[-1] - noted.sent[0]) / (len(noted.sent) - 1) / MB
    bare = (sum(sent.values()) - before) / MB
    row["sent_ratio"] = row["sent"] / bare if bare else None
    (folder / f"{rank}.json").write_text(json.dumps(row))


class Noted(Progress):
    """Notes what is resident, and has been sent, after each step; counts from the first weight that is read."""

    def __init__(self, counted: dict[str, int], kind: str) -> None:
        self.counted, self.kind, self.start = counted, kind, 0
        self.sizes: list[int] = []
        self.sent: list[int] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        if not self.start:
            settle()
            self.start = memory(self.kind)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        yield _Noting(self) if label in MODES else Task()

    def note_sample(self) -> None:
        self.sizes.append(memory(self.kind))
        self.sent.append(sum(self.counted.values()))


class _Noting(Task):
    def __init__(self, noted: Noted) -> None:
        self.noted = noted

    def advance(self, amount: int = 1, **shown: object) -> None:
        self.noted.note_sample()


def _search(folder: Path, name: str, task: dict[str, Any], progress: Noted) -> int:
    model = OnDisk(ModelChoice(str(folder.parent / name)), "cpu", progress)
    model.progress = progress  # of every rank, not of the first alone
    data = DataChoice(TextChoice([TEXT]), samples=4 * task["ranks"], seq_len=task["seq_len"])
    settings = settings_for(task["mode"], task["ranks"])
    how = {"checkpoint_activations": task["checkpoint_activations"]} if settings.follows_loss else {}
    search_on_disk(model, data, settings, folder / f"run-{name}", offload=task["offload"], **how)
    return model.world.rank


def settings_for(mode: str, ranks: int) -> Settings:
    """Return a mode's settings with a sample for each rank in a step."""
    return MODES[mode](**({"batch_size": ranks} if mode == "feedback" else {}))


def predicted(folder: Path, mode: str, seq_len: int, layout: Layout) -> Rank:
    """Return what the plan says of a rank."""
    ranks = layout.ranks
    settings, found = settings_for(mode, ranks), outline(str(folder))
    trace = trace_sample(found, seq_len, backward=settings.follows_loss)
    counted = Ranks(found, units_of(found, loss=settings.follows_loss), trace, settings, seq_len, on_host=True)
    return counted.rank(layout)


def _bare_step(folder: Path, task: dict[str, Any]) -> None:
    """Take a step that only FSDP needs: one sample a rank through the same units of the same model."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    loss = MODES[task["mode"]].follows_loss
    model = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    part, blocks = (model if loss else model.model), model.model.layers
    for name, parameter in blocks.named_parameters():
        parameter.requires_grad_(loss and name.endswith("proj.weight"))
    mesh = init_device_mesh("cpu", (task["ranks"],))
    for unit in (*blocks, part):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    ids = torch.zeros(1, task["seq_len"], dtype=torch.int64)
    with torch.set_grad_enabled(loss):
        made = part(input_ids=ids, use_cache=False)
        if loss:
            made.logits.float().mean().backward()


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count inside the bytes that this rank sends, by collective, as a ring sends them."""
    sent: dict[str, int] = {}
    module = dist.distributed_c10d
    size = dist.get_world_size() if dist.is_initialized() else 1

    def add(kind: str, count: float) -> None:
        sent[kind] = sent.get(kind, 0) + int(count)

    def all_gather_single(output: Tensor, part: Tensor, *rest: Any, **options: Any) -> Any:
        add("all-gather", part.nbytes * (size - 1))
        return own["all_gather_single"](output, part, *rest, **options)

    def reduce_scatter_single(output: Tensor, input: Tensor, *rest: Any, **options: Any) -> Any:
        add("reduce-scatter", input.nbytes * (size - 1) / size)
        return own["reduce_scatter_single"](output, input, *rest, **options)

    def all_gather(tensors: list[Tensor], part: Tensor, *rest: Any, **options: Any) -> Any:
        add("small", part.nbytes * (size - 1))
        return own["all_gather"](tensors, part, *rest, **options)

    def all_reduce(tensor: Tensor, *rest: Any, **options: Any) -> Any:
        add("small", 2 * tensor.nbytes * (size - 1) / size)
        return own["all_reduce"](tensor, *rest, **options)

    made = {f.__name__: f for f in (all_gather_single, reduce_scatter_single, all_gather, all_reduce)}
    own = {name: getattr(module, name) for name in made}
    with patch.multiple(module, **made), patch.multiple(dist, **made):
        yield sent


@contextmanager
def highest(field: str) -> Iterator[list[int]]:
    """Look at a field of the process's status all the time, and yield the most that it has been."""
    seen, over = [0], Event()

    def look() -> None:
        while not over.wait(0.001):
            seen[0] = max(seen[0], memory(field))

    looking = Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def settle() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def memory(field: str) -> int:
    """Return a field of this process's status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)

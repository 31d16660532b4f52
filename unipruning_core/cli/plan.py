"""The command that predicts the cost of a search: plan."""

from __future__ import annotations

import argparse
import json
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import (
    SEQ_LEN_HELP,
    Command,
    add_loading,
    add_outline,
    add_settings,
    add_sparsity,
    add_targets,
    given,
    settings_from,
    targets_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.cli.parser import checked_by
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.layout import OFFLOADS, size_of
from unipruning_core.models.named import check_outline
from unipruning_core.search.choice import flags, spelled
from unipruning_core.search.settings import RECOMPUTATION
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.outputs import check_file, write_whole
from unipruning_core.tools.plan.wanted import Wanted

if TYPE_CHECKING:
    from unipruning_core.tools.plan.layout import Layout
    from unipruning_core.tools.plan.plan import SearchPlan

GIB, GB = 2**30, 1e9
DETAILS = """\
Reads a config, and the headers of a folder's weights, and needs no device: the model is traced once on tensors without
values, which gives its operations and its peak activation memory.  The predicted time is the roofline of the machine
described by --bandwidth and --flops, over ranks also --network, and with an offload also --pcie; without them no time
is predicted.  Weights are taken as stored, or, with --backend, as that backend loads them on this machine.

With --device-memory it chooses what fits and prints the command: activations computed again, then more ranks, then
weights and state in the host's memory.

examples
  unipruning plan llama-2-7b --sparsity 2:4
  unipruning plan ./model --backend cpu --mode frozen --seq-len 4096 --bandwidth 100 --flops 1.5
  unipruning plan llama-2-70b --device-memory 80GiB --batch-size 8 --bandwidth 3350 --flops 400 --network 50
  unipruning plan llama-2-7b --device-memory 23GiB --ranks 1 --bandwidth 1000 --flops 100 --pcie 25
"""


def add_commands(command: Command) -> None:
    parser = command("plan", _plan, "predict the memory, traffic and time of a search from a config alone", DETAILS)
    add_outline(parser)
    add_loading(parser)
    add_targets(parser)
    parser.add_argument("--backend", help="load as this backend does, and list what it leaves to the reference")
    add_sparsity(parser, default=[])
    parser.add_argument("--samples", type=int, default=128, help="calibration samples (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, help=f"tokens per sample ({SEQ_LEN_HELP})")
    add_settings(parser)
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="memory bandwidth of the device")
    parser.add_argument("--flops", type=float, metavar="TFLOP/S", help="speed of matrix products in the weights' dtype")
    layout = parser.add_argument_group("layout (default: one process, or the smallest one that fits --device-memory)")
    memory = checked_by(partial(size_of, flag="--device-memory"))
    about = "memory of each device, such as 80GiB or 24GB"
    layout.add_argument("--device-memory", type=memory, metavar="SIZE", help=about)
    layout.add_argument("--ranks", type=int, metavar="N", help="processes, a device each (default: at most 8 a node)")
    layout.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    layout.add_argument(
        "--offload",
        choices=OFFLOADS,
        default=OFFLOADS[0],
        help="where weights and state lie: none for the device, cpu for the host's memory, disk (default: what fits)",
    )
    layout.add_argument(
        "--checkpoint-activations",
        choices=RECOMPUTATION,
        default=RECOMPUTATION[0],
        help="on: compute activations again in the backward pass (default: what fits)",
    )
    layout.add_argument("--network", type=float, metavar="GB/S", help="what each rank can send to the others")
    layout.add_argument("--pcie", type=float, metavar="GB/S", help="between a device and the host's memory, or disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan to this file")


def _plan(options: argparse.Namespace) -> int:
    settings, choice = settings_from(options), TargetChoice(**targets_from(options))
    memory = size_of(options.device_memory, "--device-memory")
    from unipruning_core.registry import Catalogue

    spec = None if options.backend is None else Catalogue().specs.get(options.backend)
    on_host = spec is not None and spec.device_type == "cpu"
    wanted = Wanted(
        settings, options.ranks, options.nodes, options.offload, options.checkpoint_activations, memory, on_host
    )
    if options.json:
        check_file(options.json)
    sparsities = [parse_sparsity(text) for text in options.sparsity]
    if sparsities:
        check_distinct(sparsities)
    check_first(options, "dtype")
    check_outline(options.model, options.revision)
    if options.backend is not None:
        check_first(options, "backend")
    with collector_at_rest(ours=True):
        from unipruning_core.data.calibration import check_size
        from unipruning_core.models.outline import outline
        from unipruning_core.models.positions import window_length
        from unipruning_core.search.activation_memory import check_choice
        from unipruning_core.tools.plan.dtype import as_loaded
        from unipruning_core.tools.plan.plan import UNITS, Machine, plan_search

    check_choice(options.checkpoint_activations, settings)
    check_size(options.samples, options.seq_len)
    model = outline(
        options.model,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        choice=choice,
    )
    remark = None
    if options.dtype == "auto":
        model, remark = as_loaded(model, options.backend)
    plan = plan_search(
        model,
        settings,
        backend=options.backend,
        samples=options.samples,
        seq_len=window_length(model.positions, options.seq_len),
        sparsities=sparsities,
        machine=Machine(
            **{name: speed * unit for name, (unit, _) in UNITS.items() if (speed := getattr(options, name)) is not None}
        ),
        wanted=wanted,
    )
    _show(plan, remark)
    _show_seconds(plan)
    print(f"\n{search_command(options, plan.layout)}")
    if options.json:
        write_whole(options.json, json.dumps(plan.to_json(), indent=1, allow_nan=False) + "\n")
    return 0


def search_command(options: argparse.Namespace, layout: Layout) -> str:
    """Return the command that makes the planned search, started by torchrun where there are several ranks."""
    words = ["unipruning", "search"]
    if layout.ranks > 1:
        nodes = ["--nnodes", str(layout.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29500"]
        each = ["--nproc-per-node", str(layout.ranks // layout.nodes)]
        words = ["torchrun", *(nodes if layout.nodes > 1 else []), *each, "-m", "unipruning_core", "search"]
    words += [options.model, "--out", "RUN"]
    asked = {name: getattr(options, name) for name in ("mode", "backend", "samples", "seq_len", "dtype")}
    shown = {"samples": 128, "dtype": "auto"}
    asked = {name: value for name, value in asked.items() if value != shown.get(name)} | given(options, flags())
    for name, value in asked.items():
        words += [spelled(name), str(value)]
    for name in ("include", "exclude"):
        words += [word for pattern in getattr(options, name) for word in (spelled(name), pattern)]
    words += ["--trust-remote-code"] * options.trust_remote_code
    words += ["--offload", layout.offload] if layout.offload != "none" else []
    words += ["--checkpoint-activations", "on"] if layout.recomputes else []
    return shlex.join(words)


def _show(plan: SearchPlan, remark: str | None) -> None:
    from unipruning_core.tools.plan.choose import described

    print(
        f"{plan.model}, {plan.dtype}: {plan.parameters / 1e9:.2f} G parameters, "
        f"{plan.targets} targets with {plan.weights / 1e9:.2f} G weights, "
        f"{plan.weights / (plan.parameters - plan.embeddings):.1%} of those outside embeddings; "
        f"{len(plan.left_out)} others stay dense"
    )
    if remark:
        print(remark)
    a_rank = " a rank" if plan.layout.ranks > 1 else ""
    print(f"\n{described(plan.layout)}")
    print(f"peak memory{a_rank:7} {plan.held / GIB:12.1f} GiB, in {plan.phase}")
    for part, size in plan.memory.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    if plan.untraced is not None:
        print(f"  {plan.untraced}")
    if plan.host:
        place = "on disk" if plan.layout.offload == "disk" else "in the host's memory"
        print(f"{place}{a_rank}: {plan.host / GIB:.1f} GiB")
    together = f", {plan.together} at a time" if plan.layout.ranks > 1 else ""
    print(f"\none sample of {plan.seq_len} tokens, {plan.samples} in all{together}")
    print(f"  {'the model, operations':32} {plan.model_flops / 1e12:8.2f} TFLOP")
    print(f"  {'the model, traffic':32} {plan.model_bytes / GB:8.2f} GB")
    if plan.layout.ranks > 1:
        print(f"  {'sent by each rank':32} {plan.sent / GB:8.2f} GB")
        if plan.alike:
            print(f"  ranks work on the same samples; --batch-size {plan.layout.ranks} gives each its own")
    if plan.copied:
        print(f"  {'between device and host':32} {plan.copied / GB:8.2f} GB")
    moved = sum(plan.step_bytes.values())
    over = " over all ranks" if plan.layout.ranks > 1 else ""
    print(
        f"\none step{over}, {plan.steps} in all: {moved * plan.weights / GB:.2f} GB, at least {moved:.1f} bytes per "
        "weight"
    )
    for part, least in plan.step_bytes.items():
        print(f"  {part:32} {least:8.2f} B/weight")
    if plan.reference:
        print(f"  backend {plan.backend} leaves to the reference, which moves more: {', '.join(plan.reference)}")
    print("\non disk")
    for part, size in plan.files.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    for sparsity, pruned in plan.pruned.items():
        print(
            f"  {sparsity} prunes {pruned} of {plan.weights} target weights ({pruned / plan.weights:.4%}), "
            f"{pruned / plan.parameters:.4%} of the model"
        )


def _show_seconds(plan: SearchPlan) -> None:
    from unipruning_core.tools.plan.plan import FORMULA

    if plan.seconds is None:
        print(f"\nno time is predicted; describe the machine with {' and '.join(plan.missing)}")
        return
    parts = ", ".join(f"{part} {taken:.1f} s" for part, taken in plan.seconds.items() if part != "all")
    print(f"\npredicted, at best: {plan.seconds['all']:.1f} s ({parts})\n  = {FORMULA}")

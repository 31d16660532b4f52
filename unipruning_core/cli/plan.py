"""The command that predicts the cost of a search: plan."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import (
    SEQ_LEN_HELP,
    SPARSITY_HELP,
    Command,
    add_loading,
    add_outline,
    add_settings,
    add_targets,
    settings_from,
    targets_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.named import check_outline
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.outputs import check_file, write_whole

if TYPE_CHECKING:
    from unipruning_core.tools.plan.plan import SearchPlan

GIB, GB = 2**30, 1e9
DETAILS = """\
Reads a config but no weights, and needs no device: the model is traced once on tensors without values, which gives its
operations and its peak activation memory.  The predicted time is the roofline of the machine described by --bandwidth
and --flops; without them no time is predicted.

examples
  unipruning plan llama-2-7b --sparsity 2:4
  unipruning plan ./model --backend cpu --mode frozen --seq-len 4096 --bandwidth 100 --flops 1.5
"""


def add_commands(command: Command) -> None:
    parser = command("plan", _plan, "predict the memory, traffic and time of a search from a config alone", DETAILS)
    add_outline(parser)
    add_loading(parser)
    add_targets(parser)
    parser.add_argument("--backend", help="also list the operations that this backend leaves to the reference")
    parser.add_argument("--sparsity", action="append", default=[], metavar="S", help=SPARSITY_HELP)
    parser.add_argument("--samples", type=int, default=128, help="calibration samples (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, help=f"tokens per sample ({SEQ_LEN_HELP})")
    add_settings(parser)
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="memory bandwidth of the device")
    parser.add_argument("--flops", type=float, metavar="TFLOP/S", help="speed of matrix products in the weights' dtype")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan to this file")


def _plan(options: argparse.Namespace) -> int:
    settings, choice = settings_from(options), TargetChoice(**targets_from(options))
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
        from unipruning_core.tools.plan.plan import Machine, plan_search

    check_size(options.samples, options.seq_len)
    model = outline(
        options.model,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        choice=choice,
    )
    plan = plan_search(
        model,
        settings,
        backend=options.backend,
        samples=options.samples,
        seq_len=window_length(model.positions, options.seq_len),
        sparsities=sparsities,
        machine=Machine(options.bandwidth and options.bandwidth * 1e9, options.flops and options.flops * 1e12),
    )
    _show(plan)
    if options.json:
        write_whole(options.json, json.dumps(plan.to_json(), indent=1, allow_nan=False) + "\n")
    return 0


def _show(plan: SearchPlan) -> None:
    print(
        f"{plan.model}, {plan.dtype}: {plan.parameters / 1e9:.2f} G parameters, "
        f"{plan.targets} targets with {plan.weights / 1e9:.2f} G weights, "
        f"{plan.weights / (plan.parameters - plan.embeddings):.1%} of those outside embeddings; "
        f"{len(plan.left_out)} others stay dense"
    )
    print(f"\npeak memory        {plan.held / GIB:12.1f} GiB")
    for part, size in plan.memory.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    if plan.untraced is not None:
        print(f"  {plan.untraced}")
    print(f"\none sample of {plan.seq_len} tokens, {plan.samples} in all")
    print(f"  {'the model, operations':32} {plan.model_flops / 1e12:8.2f} TFLOP")
    print(f"  {'the model, traffic':32} {plan.model_bytes / GB:8.2f} GB")
    moved = sum(plan.step_bytes.values())
    print(f"\none step, {plan.steps} in all: {moved * plan.weights / GB:.2f} GB, at least {moved:.1f} bytes per weight")
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
    _show_seconds(plan)


def _show_seconds(plan: SearchPlan) -> None:
    from unipruning_core.tools.plan.plan import FORMULA

    if plan.seconds is None:
        print("\nno time is predicted; describe the device with --bandwidth GB/S and --flops TFLOP/S")
        return
    parts = ", ".join(f"{part} {taken:.1f} s" for part, taken in plan.seconds.items() if part != "all")
    print(f"\npredicted, at best: {plan.seconds['all']:.1f} s ({parts})\n  = {FORMULA}")

"""The commands that look at machines: bench, doctor and plan; a part of the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import OutputError
from unipruning_core.options import Command, search_settings
from unipruning_core.options_bench import add_plan

if TYPE_CHECKING:
    from unipruning_core.plan import Plan

GIB, GB = 2**30, 1e9


def add_commands(command: Command) -> None:
    """Declare the three."""
    add_plan(command, _plan)


def _plan(options: argparse.Namespace) -> int:
    from unipruning_core.jobs import window_length
    from unipruning_core.plan import Machine, plan_search
    from unipruning_core.plan_model import outline
    from unipruning_core.sparsity import check_distinct, parse_sparsity

    settings, sparsities = search_settings(options), [parse_sparsity(text) for text in options.sparsity]
    if sparsities:
        check_distinct(sparsities)
    found = outline(options.model, dtype=options.dtype, trust_remote_code=options.trust_remote_code)
    plan = plan_search(
        found,
        settings,
        backend=options.backend,
        samples=options.samples,
        seq_len=window_length(found.config, options.seq_len),
        sparsities=sparsities,
        machine=Machine(
            options.bandwidth and options.bandwidth * 1e9,
            options.flops and options.flops * 1e12,
        ),
    )
    _show_plan(plan)
    if options.json:
        _write_json(options.json, plan.to_json())
    return 0


def _show_plan(plan: Plan) -> None:
    print(
        f"{plan.model}, {plan.dtype}: {plan.parameters / 1e9:.2f} G parameters, "
        f"{plan.targets} targets with {plan.weights / 1e9:.2f} G weights; {len(plan.left_out)} matrices stay dense"
    )
    print(f"\nmemory at the peak {plan.held / GIB:12.1f} GiB")
    for part, size in plan.memory.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    print(f"\none sample of {plan.seq_len} tokens, {plan.samples} in all")
    print(f"  {'the model, operations':32} {plan.model_flops / 1e12:8.2f} TFLOP")
    print(f"  {'the model, traffic':32} {plan.model_bytes / GB:8.2f} GB")
    moved = sum(plan.step_bytes.values())
    print(f"\none step, {plan.steps} in all: {moved * plan.weights / GB:.2f} GB, at least {moved:.1f} bytes a weight")
    for part, least in plan.step_bytes.items():
        print(f"  {part:32} {least:8.2f} B/weight")
    if plan.reference:
        print(f"  backend {plan.backend} leaves to the reference, which moves more: {', '.join(plan.reference)}")
    print("\non disk")
    for part, size in plan.files.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    for sparsity, pruned in plan.pruned.items():
        print(f"  {sparsity} prunes {pruned} of {plan.weights} weights ({pruned / plan.weights:.4%})")
    _show_seconds(plan)


def _show_seconds(plan: Plan) -> None:
    from unipruning_core.plan import FORMULA

    if plan.seconds is None:
        print("\nno time is predicted: say what the device does with --bandwidth GB/S and --flops TFLOP/S")
        return
    parts = ", ".join(f"{part} {taken:.1f} s" for part, taken in plan.seconds.items() if part != "all")
    print(f"\npredicted, at best: {plan.seconds['all']:.1f} s ({parts})\n  = {FORMULA}")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}; choose another file") from error

"""What 2:4 gains on a GPU: a linear layer of both kinds at several numbers of tokens, and a pruned model end to end.

    python benchmarks/semi_structured.py
    python benchmarks/semi_structured.py --pruned pruned --half pruned-half     # of 'export --to semi-structured'

A layer's results are compared before its time is taken: one that is wrong ends the script.  Times are medians of
torch.utils.benchmark, which waits for the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.benchmark import Timer
from transformers import AutoModelForCausalLM, PreTrainedModel

import unipruning

SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008)]  # (out, in) of a model with 7 billion weights
TOKENS = [1, 16, 256, 4096]
CLOSE = 0.02  # of the norm, in bfloat16


def half_of(shape: tuple[int, int], device: str) -> Tensor:
    """Return a weight in bfloat16 of which the first two of every four inputs are zero."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight.view(-1, 4)[:, :2] = 0
    return weight.to(device)


def seconds(statement: str, names: dict[str, object], at_least: float) -> float:
    """Return the median time of a statement."""
    return float(Timer(statement, globals=names).blocked_autorange(min_run_time=at_least).median)


def check_close(what: str, here: Tensor, there: Tensor) -> None:
    """End the script where two results differ by more than rounding."""
    distance = float((here.float() - there.float()).norm() / there.float().norm())
    if not distance < CLOSE:
        raise SystemExit(f"{what}: 2:4 is {distance:.2g} of the norm away from dense")


def layers(device: str, at_least: float) -> None:
    print("| out x in | tokens | dense, µs | 2:4, µs | times as fast |")
    print("| --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        dense = half_of(shape, device)
        half = torch.sparse.to_sparse_semi_structured(dense)
        for tokens in TOKENS:
            inputs = torch.randn(tokens, shape[1], generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
            check_close(f"{shape} at {tokens} tokens", linear(inputs, half), linear(inputs, dense))
            names = {"linear": linear, "x": inputs, "dense": dense, "half": half}
            both = [seconds(f"linear(x, {name})", names, at_least) for name in ("dense", "half")]
            print(f"| {shape[0]} x {shape[1]} | {tokens} | {both[0] * 1e6:.1f} | {both[1] * 1e6:.1f} | {ratio(both)} |")


def models(pruned: Path, half: Path, device: str, at_least: float) -> None:
    dense: PreTrainedModel = AutoModelForCausalLM.from_pretrained(pruned, dtype="auto").to(device)
    packed = unipruning.load_semi_structured(half, device, progress=False)
    print("\n| pass over | dense, ms | 2:4, ms | times as fast |")
    print("| --- | --- | --- | --- |")
    for tokens in TOKENS:
        ids = torch.arange(tokens, device=device)[None] % dense.config.vocab_size
        check_close(f"the model at {tokens} tokens", packed(ids).logits, dense(ids).logits)
        names = {"dense": dense, "half": packed, "ids": ids}
        both = [seconds(f"{name}(ids, use_cache=False)", names, at_least) for name in ("dense", "half")]
        print(f"| {tokens} tokens | {both[0] * 1e3:.2f} | {both[1] * 1e3:.2f} | {ratio(both)} |")


def ratio(both: Sequence[float]) -> str:
    return f"{both[0] / both[1]:.2f}"


@torch.inference_mode()
def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, each (default: %(default)s)")
    parser.add_argument("--pruned", type=Path, help="a checkpoint in 2:4")
    parser.add_argument("--half", type=Path, help="what 'unipruning export --to semi-structured' made of it")
    options = parser.parse_args(words)
    if (options.pruned is None) != (options.half is None):
        parser.error("--pruned and --half are of one model; pass both")
    layers(options.device, options.seconds)
    if options.pruned is not None:
        models(options.pruned, options.half, options.device, options.seconds)


if __name__ == "__main__":
    main()

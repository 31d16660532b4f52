"""Which quantisers keep the zeros of a pruned weight: the table of docs/after-pruning.md, from what is installed here.

    pip install gguf pywhispercpp bitsandbytes torchao optimum-quanto hqq
    python benchmarks/zeros_kept.py

The weights are normal deviates of spread 0.02, rounded to bfloat16, half of them exact zeros at random, in a matrix of
256 x 512; and the same with a row of nothing but zeros.  A quantiser whose package is missing is named at the end, with
those that fail.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from _quantisers import Quantiser, quantisers, version
from torch import Tensor

ROWS, COLUMNS, SPREAD = 256, 512, 0.02
DEAD = 3  # the row that is pruned whole


@dataclass(frozen=True)
class Measured:
    """What one quantiser makes of a pruned weight."""

    package: str
    version: str
    name: str
    lost: float  # fraction of the zeros that are none any more
    largest: float  # of what they became, in spreads of the weights
    rounded: float  # fraction of the kept weights that became zero
    dead_row: str  # what a row of zeros becomes


def pruned_weight() -> Tensor:
    """Return the weight that all quantisers get, float32."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(ROWS, COLUMNS, generator=generator) * SPREAD).bfloat16().float()
    return weight * (torch.rand(ROWS, COLUMNS, generator=generator) < 0.5)


def measure(quantiser: Quantiser, number: str) -> Measured:
    """Quantise and dequantise the weight, and the one with a dead row."""
    weight = pruned_weight()
    made = quantiser.run(weight)
    masked = weight == 0
    dead = weight.clone()
    dead[DEAD] = 0
    row = quantiser.run(dead)[DEAD]
    return Measured(
        quantiser.package,
        number,
        quantiser.name,
        float((made[masked] != 0).float().mean()),
        float(made[masked].abs().max() / SPREAD),
        float((made[~masked] == 0).float().mean()),
        "NaN" if bool(row.isnan().any()) else "zeros" if not bool(row.any()) else "not zeros",
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    found, left_out = [], []
    for quantiser in quantisers():
        number = version(quantiser.package)
        if number is None:
            left_out.append(f"{quantiser.name}: {quantiser.package} is not installed")
            continue
        try:
            found.append(measure(quantiser, number))
        # a package that does not run here is a row of the report
        except Exception as error:
            left_out.append(f"{quantiser.name} of {quantiser.package} {number}: {type(error).__name__}: {error}")
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in found], "left_out": left_out}, indent=1))
        return
    print("| package | format | zeros lost | largest | kept, now zero | a row of zeros becomes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in found:
        lost = "**0**" if row.lost == 0 else f"{row.lost:.1%}"
        largest = "0" if row.largest == 0 else f"{row.largest:.2g}"
        print(f"| {row.package} {row.version} | {row.name} | {lost} | {largest} | {row.rounded:.1%} | {row.dead_row} |")
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()

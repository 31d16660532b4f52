"""The results as a table in Markdown, and in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from textwrap import fill, shorten

from _making import CAUSAL
from _trial import Outcome

HEAD = """# Families of models

Made by `make families`, which builds a checkpoint of four layers of every causal and image-text family that
transformers {transformers} has, searches it with `--mode feedback` and `--mode frozen`, projects at `60%/global`,
`50%/row` and `2:4`, and checks each output: every tensor is the original under its mask, the counts are exact,
transformers loads it, its logits are bit for bit those of the original masked in memory, and it writes text.

{counts}

| outcome | means |
| --- | --- |
| passed | every check holds in both modes, and at least 95 % of the experts' weights are targets |
| experts dense | every check holds, but fewer of the experts' weights are targets |
| refused | the search ends with exit code 2 and one sentence |
| late | projection refuses what the search accepted |
| fault | an error that is not foreseen, or a check that does not hold |
| unbuilt | transformers itself cannot build it from a small configuration, or not read what it saved |

Targets are a fraction of the weights outside embeddings; the models are tiny, so norms, routers and towers weigh more
in them than in real ones.

| family | model | experts in the file | targets | outcome | reason |
| --- | --- | --- | --- | --- | --- |
"""


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the document."""
    head = HEAD.format(transformers=version("transformers"), counts=fill(f"{summary(outcomes)}.", 120))
    return head + "".join(
        _row(outcome) for outcome in sorted(outcomes, key=lambda outcome: (outcome.family, outcome.kind))
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.outcome for outcome in outcomes)
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    built = [outcome for outcome in outcomes if outcome.outcome != "unbuilt"]
    alone = sum(not outcome.forward for outcome in built)
    more = sum(bool(outcome.needs) for outcome in built)
    return f"{len(outcomes)} families, of which {alone} run on text alone and {more} with other inputs: {parts}"


def _row(outcome: Outcome) -> str:
    name = outcome.family if outcome.kind == CAUSAL else f"{outcome.family} ({outcome.kind})"
    reason = outcome.reason or (outcome.forward and f"on text alone: {outcome.forward}")
    cells = [name, outcome.model, outcome.layout, _targets(outcome), outcome.outcome, _plain(reason)]
    return f"| {' | '.join(cells)} |\n"


def _targets(outcome: Outcome) -> str:
    checked = next((steps["50-row"] for steps in outcome.modes.values() if "50-row" in steps), None)
    outside = outcome.weights - outcome.embeddings
    if not checked or not outside:
        return ""
    # at half of each row twice what was pruned are targets
    of_experts = f", {2 * checked['experts'] / outcome.experts:.0%} of experts" if outcome.experts else ""
    return f"{checked['targets'] / outside:.0%}{of_experts}"


def _plain(reason: str) -> str:
    """Return a reason that fits a cell and names no folder of this machine."""
    text = re.sub(r"(/[\w.:-]+){2,}/", "", reason.removeprefix("error: "))
    return shorten(text.replace("|", "\\|"), 160, placeholder=" …")

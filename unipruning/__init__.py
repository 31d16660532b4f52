"""Post-training pruning of large language models by mirror descent, for Python users::

    masks = unipruning.prune(model, tokenizer, sparsity="60%", data="calibration.jsonl")

Names are resolved on first use, so importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipruning_core.compare.job import compare
    from unipruning_core.data.perplexity import Perplexity
    from unipruning_core.errors import UnipruningError
    from unipruning_core.evaluation.job import Evaluation, evaluate
    from unipruning_core.export.job import Exported, export
    from unipruning_core.export.semi_structured import load_semi_structured
    from unipruning_core.export.unpacked import unpack
    from unipruning_core.jobs.api import prune, search
    from unipruning_core.jobs.found_scores import FoundScores
    from unipruning_core.jobs.results import perplexity, project
    from unipruning_core.progress import Progress
    from unipruning_core.projection.decide import Scores
    from unipruning_core.projection.mask_file import read_masks
    from unipruning_core.projection.project import Projected
    from unipruning_core.search.modes.coupled import CoupledSettings
    from unipruning_core.search.modes.drift import DriftSettings
    from unipruning_core.search.modes.feedback import FeedbackSettings
    from unipruning_core.search.modes.frozen import FrozenSettings
    from unipruning_core.search.run_folder import Run
    from unipruning_core.sharing.push import push
    from unipruning_core.sparsity.budget import Budget
    from unipruning_core.sparsity.parse import Sparsity, parse_sparsity
    from unipruning_core.tools.zeros.check import check_zeros
    from unipruning_core.tuning.callback import MaskCallback
    from unipruning_core.tuning.hold import HeldMasks, hold_masks
    from unipruning_core.tuning.lora import merge_lora
    from unipruning_core.tuning.record import record_tuned

_HOMES = {
    "compare": "compare.job",
    "Perplexity": "data.perplexity",
    "UnipruningError": "errors",
    "Evaluation": "evaluation.job",
    "evaluate": "evaluation.job",
    "Exported": "export.job",
    "export": "export.job",
    "load_semi_structured": "export.semi_structured",
    "unpack": "export.unpacked",
    "perplexity": "jobs.results",
    "project": "jobs.results",
    "prune": "jobs.api",
    "search": "jobs.api",
    "FoundScores": "jobs.found_scores",
    "Progress": "progress",
    "Scores": "projection.decide",
    "read_masks": "projection.mask_file",
    "Projected": "projection.project",
    "CoupledSettings": "search.modes.coupled",
    "DriftSettings": "search.modes.drift",
    "FeedbackSettings": "search.modes.feedback",
    "FrozenSettings": "search.modes.frozen",
    "Run": "search.run_folder",
    "push": "sharing.push",
    "Sparsity": "sparsity.parse",
    "Budget": "sparsity.budget",
    "parse_sparsity": "sparsity.parse",
    "check_zeros": "tools.zeros.check",
    "MaskCallback": "tuning.callback",
    "HeldMasks": "tuning.hold",
    "hold_masks": "tuning.hold",
    "merge_lora": "tuning.lora",
    "record_tuned": "tuning.record",
}

__all__ = [
    "Budget",
    "CoupledSettings",
    "DriftSettings",
    "Evaluation",
    "Exported",
    "FeedbackSettings",
    "FoundScores",
    "FrozenSettings",
    "HeldMasks",
    "MaskCallback",
    "Perplexity",
    "Progress",
    "Projected",
    "Run",
    "Scores",
    "Sparsity",
    "UnipruningError",
    "check_zeros",
    "compare",
    "evaluate",
    "export",
    "hold_masks",
    "load_semi_structured",
    "merge_lora",
    "parse_sparsity",
    "perplexity",
    "project",
    "prune",
    "push",
    "read_masks",
    "record_tuned",
    "search",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"unipruning_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

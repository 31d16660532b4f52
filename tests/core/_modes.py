"""Searches on tiny models, as the tests of the modes start them."""

import torch
from transformers import AutoModelForCausalLM

from unipruning_core.models.targets import find_targets
from unipruning_core.search.choice import settings_of
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

SAMPLES = 6


def batches(count=SAMPLES, length=16, vocabulary=48):
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(vocabulary, (1, length), generator=generator) for _ in range(count)]


def chosen(mode=None, **values):
    """Return the settings of a mode, by default the default one."""
    return settings_of(mode, values)


def start(folder, samples=SAMPLES, **settings):
    model = AutoModelForCausalLM.from_pretrained(folder)
    layers, _ = find_targets(model, Checkpoint.open(folder))
    return chosen(**settings).start(model, layers, CpuBackend(), samples)


def run(folder, data, **settings):
    search = start(folder, len(data), **settings)
    losses = [search.step(sample, ids) for sample, ids in enumerate(data)]
    return {outcome.target.name: outcome for outcome in search.outcomes()}, losses


def gamma(outcome):
    return torch.nn.functional.softshrink(outcome.dual, float(outcome.threshold))


def keep_largest(score, fraction):
    keep = round(fraction * score.numel())
    order = score.flatten().sort(descending=True, stable=True).indices
    return torch.zeros(score.numel(), dtype=torch.bool).index_fill_(0, order[:keep], True).view_as(score)

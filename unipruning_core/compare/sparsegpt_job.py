"""SparseGPT on a whole model, block by block, and the checkpoint with its changed weights."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unipruning_core.compare.blockwise import enter, hessians, layers_by_block
from unipruning_core.compare.sparsegpt import inverse_factor, sparsify
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.experts import apart
from unipruning_core.models.memory import memory_errors_as_config_errors
from unipruning_core.models.passes import pass_errors
from unipruning_core.models.targets import check_values, find_targets
from unipruning_core.projection.output import PrunedFolder
from unipruning_core.projection.place import Output, claimed_output, files_of
from unipruning_core.projection.project import Projected
from unipruning_core.projection.report import NOT_COPIED, REVISION
from unipruning_core.search.loop import versions
from unipruning_core.sparsity.forms import MatrixSparsity, SemiStructured, Unstructured
from unipruning_core.sparsity.parse import Sparsity

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.data.calibration import Calibration, DataChoice
    from unipruning_core.jobs.opened import OnDisk
    from unipruning_core.models.layer import Layer
    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Checkpoint, Target


def run_sparsegpt(
    model: OnDisk,
    data: DataChoice,
    settings: SparseGptSettings,
    sparsity: Sparsity,
    out: Path,
    *,
    overwrite: bool = False,
) -> Projected:
    """Prune to one sparsity and write the checkpoint; everything is checked before the model is loaded."""
    cut = check_sparsity(sparsity)
    out = out.resolve()
    backend, progress = model.backend, model.progress
    model.check([sparsity])
    check_plain(model.checkpoint, model.targets)
    with claimed_output(
        model.checkpoint,
        model.targets,
        [sparsity],
        out,
        overwrite=overwrite,
        progress=progress,
        apart=[*data.text.files(), *model.choice.folders()],
    ) as output:
        if model.choice.targets.include:
            _check_in_blocks(model)
        model.report_targets()
        calibrated = model.calibrate(data, settings.seed)
        about: dict[str, object] = {
            "backend": backend.name,
            "model_fingerprint": model.checkpoint.fingerprint(),
            **({REVISION: revision} if (revision := model.checkpoint.revision) else {}),
            "provenance": {"settings": settings.to_json(), "data": calibrated.record, "versions": versions()},
        }
        output.check_same([{"sparsity": str(cut), **about}])
        model.check_finite()
        with memory_errors_as_config_errors(backend):
            loaded = model.load()
            layers, _ = find_targets(loaded, model.checkpoint, model.choice.targets)
            check_values(layers, model.checkpoint, progress)
            with apart(layers), pass_errors(loaded):
                masks = prune_model(loaded, layers, calibrated.samples, settings, cut, backend, progress)
        return write_changed(model.checkpoint, layers, masks, cut, output, about, progress, model.size.weights)


def check_sparsity(sparsity: Sparsity) -> Unstructured | SemiStructured:
    """Refuse a sparsity that SparseGPT does not have.

    Raises:
        ConfigError: it is neither a per-matrix ratio nor N:M.
    """
    if isinstance(sparsity, SemiStructured) or (
        isinstance(sparsity, Unstructured) and sparsity.scope in ("auto", "matrix")
    ):
        return sparsity
    raise ConfigError(f"SparseGPT prunes to a ratio of each matrix, such as 60%, or to N:M, not {str(sparsity)!r}")


def _check_in_blocks(model: OnDisk) -> None:
    """Refuse included layers that are in no decoder block.

    Raises:
        ConfigError: there is one.
    """
    layers, _ = find_targets(model.outline, model.checkpoint, model.choice.targets)
    inside = {
        layer.name for of_block in layers_by_block(layers, list(decoder_blocks(model.outline)[1])) for layer in of_block
    }
    if outside := [layer.name for layer in layers if layer.name not in inside]:
        raise ConfigError(
            f"SparseGPT prunes one decoder block after the other, and {outside[0]!r} is in none; leave it out with "
            f"--exclude '{outside[0]}'"
        )


def check_plain(checkpoint: Checkpoint, targets: Iterable[Target]) -> None:
    """Refuse targets in codes: SparseGPT changes the weights that it keeps, which have no codes then.

    Raises:
        ConfigError: there are some.
    """
    if coded := next((target.name for target in targets if checkpoint.codes.holds(target.tensor)), None):
        raise ConfigError(
            f"SparseGPT changes kept weights, but {coded!r} is stored in codes of eight bits; write the model in "
            f"bfloat16 with 'unipruning dequantize {checkpoint.folder} --out DIR' first"
        )


@torch.no_grad()
def prune_model(
    model: PreTrainedModel,
    layers: Sequence[Layer],
    calibration: Calibration,
    settings: SparseGptSettings,
    sparsity: Unstructured | SemiStructured,
    backend: Backend,
    progress: Progress,
) -> dict[str, Tensor]:
    """Prune the model's layers in place and return their masks, (out, in) bool on the host.

    A block's Hessians come from the outputs of the pruned blocks before it; its own outputs are recomputed once it is
    pruned.

    Raises:
        DataError: a layer received no calibration tokens.
    """
    blocks = list(decoder_blocks(model)[1])
    masks: dict[str, Tensor] = {}
    samples = []
    with progress.task("recording block inputs", len(calibration.batches), "samples") as task:
        for batch in calibration.batches:
            samples.append(enter(model, blocks, batch.to(model.device)))
            task.advance()
    with progress.task("sparsegpt", len(blocks), "blocks") as task:
        for number, (block, block_layers) in enumerate(zip(blocks, layers_by_block(layers, blocks), strict=True)):
            with hessians(block_layers) as hessian_of:
                for sample in samples:
                    sample.calls[number].on(block, sample.hidden)
            for layer in block_layers:
                hessian = hessian_of.get(layer.name)
                if hessian is None:
                    # an expert that no token reached, by those of its layer that were
                    known = [hessian_of[one.name] for one in block_layers if _are_siblings(one, layer, hessian_of)]
                    if not known:
                        raise DataError(f"layer {layer.name!r} received no tokens; calibrate on more text (--samples)")
                    hessian = torch.stack(known).mean(0)
                weight = layer.weight.float()  # a copy: other dtypes are rounded only once, at the end
                weight = weight.clone() if weight.dtype == layer.weight.dtype else weight
                factor = inverse_factor(hessian, settings.dampening, layer.name)
                masks[layer.name] = sparsify(weight, factor, sparsity, backend, settings.block).cpu()
                layer.weight.copy_(weight)
            for sample in samples:
                sample.hidden = sample.calls[number].on(block, sample.hidden)
            task.advance()
    return masks


def _are_siblings(one: Layer, layer: Layer, known: Container[str]) -> bool:
    return layer.siblings is not None and one.siblings == layer.siblings and one.name in known


def write_changed(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    masks: dict[str, Tensor],
    sparsity: Unstructured | SemiStructured,
    output: Output,
    about: dict[str, object],  # for the report
    progress: Progress,
    model_weights: int,  # of the whole model
) -> Projected:
    """Write the checkpoint with the layers' current weights, in the dtype of the source, and their masks."""
    files, not_copied = files_of(checkpoint)
    targets = tuple(layer.target for layer in layers)
    cuts: dict[str, MatrixSparsity] = dict.fromkeys((target.name for target in targets), sparsity)
    with output.filling() as folder, PrunedFolder(folder, sparsity, checkpoint, targets, cuts, model_weights) as pruned:
        with progress.task("copying", checkpoint.total_bytes, "B") as task:
            pruned.copy(files, task)
        with progress.task("writing", len(layers), "matrices") as task:
            for layer in layers:
                stored = checkpoint.tensors[layer.target.tensor].dtype
                weight = layer.as_stored(layer.weight).to("cpu", stored).contiguous()
                mask = masks[layer.name]
                pruned.prune(layer.target, weight, mask, mask.numel())
                task.advance()
        pruned.write_report(**about, **{NOT_COPIED: not_copied})
    return Projected.of(output.folder, pruned)

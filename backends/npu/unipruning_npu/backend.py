"""The Ascend backend: torch operators that torch_npu runs natively on the device, with bounded temporaries."""

from __future__ import annotations

from unipruning_core import Backend
from unipruning_npu import adamw, feedback, histogram, masks, prox, recording, steps


class NpuBackend(Backend):
    name = "npu"
    device_type = "npu"

    recorded = staticmethod(recording.recorded)

    accumulate_sumsq = staticmethod(steps.accumulate_sumsq)
    abs_sums = staticmethod(steps.abs_sums)
    mirror_step = staticmethod(steps.mirror_step)
    feedback_scores = staticmethod(feedback.feedback_scores)
    mask_weight = staticmethod(feedback.mask_weight)
    remask_weight = staticmethod(feedback.remask_weight)
    feedback_step = staticmethod(feedback.feedback_step)
    magnitude_histogram = staticmethod(histogram.magnitude_histogram)
    threshold_mask = staticmethod(masks.threshold_mask)
    topk_mask = staticmethod(masks.topk_mask)
    nm_mask = staticmethod(masks.nm_mask)
    nm_prox = staticmethod(prox.nm_prox)
    adamw_step = staticmethod(adamw.adamw_step)

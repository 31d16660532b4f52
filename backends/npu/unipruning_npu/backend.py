"""The Ascend backend: every operation is its reference definition, run on the device."""

from unipruning_core import Backend
from unipruning_kernels import reference


class NpuBackend(reference.Operations, Backend):
    name = "npu"
    device_type = "npu"

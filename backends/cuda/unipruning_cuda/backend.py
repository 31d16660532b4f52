"""The CUDA backend: every operation is its reference definition, run on the device."""

from unipruning_core import Backend
from unipruning_kernels import reference


class CudaBackend(reference.Operations, Backend):
    name = "cuda"
    device_type = "cuda"

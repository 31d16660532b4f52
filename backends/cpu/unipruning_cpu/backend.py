"""The CPU backend."""

from unipruning_core import Backend
from unipruning_kernels import reference


class CpuBackend(reference.Operations, Backend):
    name = "cpu"
    device_type = "cpu"

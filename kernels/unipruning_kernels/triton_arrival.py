"""Function shared by kernels: finds the last program to finish, which completes what all have begun in the same launch.

It saves a launch, which on the host costs more than many a kernel takes, and needs no program to wait for another.
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl


@triton.jit
def last_to_arrive(
    counter,  # integer scalar, zero before the launch
    number,  # of programs that arrive
):
    """Return whether all other programs have arrived; what they stored before is visible to this one from here on."""
    # the stores of all threads come before the one thread that arrives for them
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == number - 1

"""What can be measured, in which dtypes and against what, by name; imports nothing heavy."""

from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import ConfigError
from unipruning_core.spelling import did_you_mean

STEPS = ("step ria", "step stochria", "step drift")  # whole steps, of several operations
MEASURED = (*STEPS, *OPERATIONS)
DTYPE_NAMES = ("float32", "bfloat16", "float16")
BASELINES = ("eager", "released", "compile")


def check_operation(name: str) -> None:
    """Refuse what cannot be measured.

    Raises:
        ConfigError: it is no operation and no step.
    """
    if name not in MEASURED:
        hint = did_you_mean(name, MEASURED)
        raise ConfigError(f"operation {name!r} cannot be measured; choose from {', '.join(MEASURED)}{hint}")


def check_dtypes(words: str) -> None:
    """Refuse dtypes, separated by commas, that are none to measure in.

    Raises:
        ConfigError: one of them is none.
    """
    for name in words.split(","):
        if name not in DTYPE_NAMES:
            hint = did_you_mean(name, DTYPE_NAMES)
            raise ConfigError(f"--dtype must be one of {', '.join(DTYPE_NAMES)}, not {name!r}{hint}")


def check_baseline(name: str) -> None:
    """Refuse what is no implementation to compare with.

    Raises:
        ConfigError: it is none.
    """
    if name not in BASELINES:
        hint = did_you_mean(name, BASELINES)
        raise ConfigError(f"--baseline must be one of {', '.join(BASELINES)}, not {name!r}{hint}")

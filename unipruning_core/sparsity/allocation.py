"""The numbers that decide how a sparsity ratio is divided, parsed and checked without torch."""

from __future__ import annotations

import re
from fractions import Fraction

from unipruning_core.errors import ConfigError
from unipruning_core.storage.documents import quoted

OUTLIER_MULTIPLE = 5.0  # M
LARGEST_MULTIPLE = 1e30  # M times a mean must be a float32
SPREAD = Fraction(8, 100)  # lambda
# short, and with a small exponent: a Fraction writes out every digit of 1e999999999
NUMBER = re.compile(
    r"[+-]?([0-9]{1,9}(\.[0-9]{0,18})?|\.[0-9]{1,18})(e[+-]?[0-9]{1,2})?|[+-]?[0-9]{1,9}/0*[1-9][0-9]{0,8}"
)


def parse_spread(text: str, name: str = "--spread") -> Fraction:
    """Parse lambda, exactly; ``name`` is its name in messages.

    Raises:
        ConfigError: the text is no number, or lies outside [0, 1).
    """
    if not NUMBER.fullmatch(text.lower()):
        raise ConfigError(f"{name} must be a number such as 0.08, not {quoted(text)}")
    spread = Fraction(text)
    if not 0 <= spread < 1:
        raise ConfigError(f"{name} must lie in [0, 1), not {float(spread):g}; the published value is 0.08")
    return spread


def check_multiple(multiple: float, name: str = "--outlier-multiple") -> None:
    """Refuse an M that is not a positive number, or out of range; ``name`` is its name in messages.

    Raises:
        ConfigError: it is.
    """
    if not 0 < multiple <= LARGEST_MULTIPLE:
        raise ConfigError(
            f"{name} must be a positive number of at most {LARGEST_MULTIPLE:g}, not {multiple:g}; the published value"
            " is 5"
        )

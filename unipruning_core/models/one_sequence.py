"""Forward passes over a single sequence, without the questions that transformers asks of the values on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch


@contextmanager
def one_sequence() -> Iterator[None]:
    """Let transformers take all tokens of a pass as one sequence without padding, which a calibration sample is.

    It would read position ids on the host, to find sequences packed into one.  And while launches are recorded, when
    nothing can be read, it would form the causal mask as a matrix, with which attention takes a slower kernel.
    """
    from transformers import masking_utils

    answers = {"find_packed_sequence_indices": lambda *_, **__: None, "is_tracing": lambda *_, **__: False}
    with ExitStack() as stack:
        for name, answer in answers.items():
            if hasattr(masking_utils, name):  # not in every version
                stack.enter_context(patch.object(masking_utils, name, answer))
        yield

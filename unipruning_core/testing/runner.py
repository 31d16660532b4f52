"""Run the conformance suite from code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from unipruning_core.errors import ConfigError


def run(backend: str | None, extra_args: Sequence[str] = ()) -> int:
    """Hold a backend to the contract and return pytest's exit status, 0 when every case passes.

    Args that pytest knows, such as ``-x`` or ``-k nm_mask``, go into ``extra_args``; None selects the backend as any
    other command does.
    """
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise ConfigError("the conformance suite needs pytest, which is not installed; pip install pytest") from error
    arguments = ["--pyargs", "unipruning_core.testing.conformance", "-p", "unipruning_core.testing.plugin"]
    # a project's own pytest settings must not decide what passes here, nor get a cache folder from it
    arguments += ["-c", os.devnull, f"--rootdir={Path(__file__).parent}", "-p", "no:cacheprovider"]
    if backend is not None:
        arguments += ["--backend", backend]
    return int(pytest.main([*arguments, *extra_args]))

"""Commands as the tests of their folders run them."""

from __future__ import annotations

from unipruning_core.cli.main import main

SEARCH = ("--samples", "3", "--seq-len", "16", "--save-every", "0")


def succeed(*words: object) -> None:
    assert main([str(word) for word in words]) == 0

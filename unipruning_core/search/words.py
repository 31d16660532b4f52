"""The command that makes a search again, from what its records say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unipruning_core.search.choice import own_settings, spelled

OF_THE_TEXT = ("split", "text_column", "samples", "seq_len", "packing", "dtype")


def search_words(
    model: str,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    patterns: Mapping[str, Any],
    *,
    revision: str | None = None,
    compiles: bool = False,
    shown: Callable[[str], str] = str,  # turns the name of a text or tokenizer into the one to print
) -> list[str]:
    """Return the words of ``unipruning search`` with every setting, so that later defaults change nothing."""
    words = ["unipruning", "search", model, *(["--revision", revision] if revision else [])]
    for name, value in own_settings(settings).items():
        words += [spelled(name), str(value)] if value != "" else []
    parts = data.get("sources") or [{"source": data["source"]}]
    for part in parts:
        weight = f"{part['weight']:g}:" if "weight" in part else ""
        words += ["--data", f"{weight}{shown(part['source'])}"]
    if data.get("tokenizer") is not None:
        words += ["--tokenizer", shown(data["tokenizer"])]
    for name in OF_THE_TEXT:
        words += [spelled(name), str(data[name])] if data.get(name) is not None else []
    for name in ("include", "exclude"):
        words += [word for pattern in patterns.get(name, ()) for word in (f"--{name}", str(pattern))]
    return [*words, "--compile"] if compiles else words

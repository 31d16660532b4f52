"""The tokenizer of a model in GGUF: tokens with their types, merges or scores, and how llama.cpp is to split text.

llama.cpp has the splitting of each tokenizer built in, under a name.  Here the name is told by what tokenizer.json says
of normalising and splitting, and a tokenizer whose steps are none of those known is refused: under a wrong name a model
answers, and worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError, ConfigError, first_line

CONVERTER = "convert the folder as it is with convert_hf_to_gguf.py of llama.cpp"
TOKENIZER_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# the names of regular expressions that split before bytes are looked at
SPLITS = {rf"{WORDS}|\p{{N}}{{1,3}}|{REST}": "llama-bpe", rf"{WORDS}|\p{{N}}|{REST}": "qwen2"}
WHOLE_WORDS = frozenset(("llama-bpe",))  # names under which a word that is a token is not split
NORMALIZED = frozenset(("qwen2",))  # and under which text is of the form NFC already
UNUSED_SCORE = -1000.0


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that cannot be written.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        ConfigError: it is of a kind that is not known, or a package is missing.
    """
    if not _is_sentencepiece(folder):
        _splitting(folder, _read(folder))
    elif find_spec("sentencepiece") is None:
        raise ConfigError(
            f"the scores of {SENTENCEPIECE_FILE} are read by the package sentencepiece, which is not installed; pip "
            "install sentencepiece"
        )


def add_tokenizer(writer: Any, folder: Path, rows: int) -> None:
    """Add a tokenizer to a file; ``rows`` are those of the embedding, and there are as many tokens.

    Raises:
        CheckpointError: it has more tokens than the embedding has rows.
    """
    import gguf

    if is_pieces := _is_sentencepiece(folder):
        found = list(gguf.SentencePieceVocab(folder).all_tokens())
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
    else:
        document = _read(folder)
        found = _byte_level(document)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_splitting(folder, document))
    if len(found) > rows:
        raise CheckpointError(
            f"the tokenizer of {str(folder)!r} has {len(found)} tokens and the embedding {rows} rows; copy the "
            "tokenizer of the model there"
        )
    found += [(f"[PAD{token}]".encode(), UNUSED_SCORE, gguf.TokenType.UNUSED) for token in range(len(found), rows)]
    texts, scores, types = zip(*found, strict=True)
    writer.add_token_list(list(texts))
    if is_pieces:
        writer.add_token_scores(list(scores))
    writer.add_token_types([int(kind) for kind in types])
    gguf.SpecialVocab(folder, load_merges=not is_pieces, n_vocab=rows).add_to_gguf(writer, quiet=True)


def _byte_level(document: Mapping[str, Any]) -> list[tuple[bytes, float, Any]]:
    """Return all tokens by their numbers, with a type for each."""
    from gguf import TokenType

    texts = {number: (text, TokenType.NORMAL) for text, number in document["model"]["vocab"].items()}
    for token in document.get("added_tokens", ()):
        kind = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        texts[token["id"]] = (token["content"], kind)
    unused = ("", TokenType.UNUSED)
    every = ((number, *texts.get(number, unused)) for number in range(max(texts) + 1))
    return [((text or f"[PAD{number}]").encode(), 0.0, kind) for number, text, kind in every]


def _splitting(folder: Path, document: Mapping[str, Any]) -> str:
    """Return the name of the steps before bytes are merged."""
    model, steps = document.get("model", {}), _steps(document.get("pre_tokenizer"))
    name = _name_of(steps)
    normalizer = (document.get("normalizer") or {}).get("type")
    if (
        model.get("type") != "BPE"
        or name is None
        or bool(model.get("ignore_merges")) != (name in WHOLE_WORDS)
        or normalizer != ("NFC" if name in NORMALIZED else None)
    ):
        shown = " then ".join(str(step.get("type")) for step in steps) or "nothing"
        raise ConfigError(
            f"the tokenizer of {str(folder)!r} ({model.get('type')}, split by {shown}) is none of those that can be "
            f"written for llama.cpp; {CONVERTER}"
        )
    return name


def _name_of(steps: list[Mapping[str, Any]]) -> str | None:
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    kinds = [step.get("type") for step in before]
    if last.get("use_regex", True):
        digits = kinds == ["Digits"] and before[0].get("individual_digits")
        return "smollm" if digits else None if kinds else "gpt-2"
    if kinds != ["Split"] or before[0].get("behavior") != "Isolated" or before[0].get("invert"):
        return None
    pattern = before[0].get("pattern")
    return SPLITS.get(pattern.get("Regex", "")) if isinstance(pattern, dict) else None


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    return list(pre_tokenizer.get("pretokenizers", [pre_tokenizer]))


def _is_sentencepiece(folder: Path) -> bool:
    if not (folder / SENTENCEPIECE_FILE).is_file():
        return False
    # some models have both, and a tokenizer.json of bytes decides
    document = _read(folder) if (folder / TOKENIZER_FILE).is_file() else {"model": {"byte_fallback": True}}
    return bool(document["model"].get("byte_fallback"))


def _read(folder: Path) -> dict[str, Any]:
    path, remedy = folder / TOKENIZER_FILE, "copy the tokenizer of the model there"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            raise ValueError("it has no 'model'")
    except FileNotFoundError as error:
        raise CheckpointError(f"{str(folder)!r} has no {TOKENIZER_FILE}; {remedy}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {first_line(error)}; {remedy}") from error
    return document

"""Texts that the tests write, and a tokenizer that reads them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

ROWS = [{"text": "one fish"}, {"text": ""}, {"text": "two\nfish"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def spelling(**options: object) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one token a character, with a special token before each text."""
    vocabulary = {"<unk>": 0, "</s>": 1} | {chr(code): code for code in range(2, 260)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **options)

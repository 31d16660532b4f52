"""The blocks of code of the pages, each with what stands before it, and the shell's commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
MARKER = re.compile(r"<!-- not run: (.+) -->")
# the first words of commands; a block that has none of them is output, a formula or a file
PROGRAMS = {
    *("unipruning", "torchrun", "python", "python3", "pip", "make", "git", "source", "cd", "cp", "tar", "curl"),
    *("transformers", "vllm", "sglang", "lm_eval", "llama-cli", "llama-server", "ollama", "docker", "hf", "twine"),
}
ASSIGNMENT = re.compile(r"\w+=\S*")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of the page, from 1
    language: str
    text: str
    why_not_run: str | None  # what a marker before it says

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The commands of a shell, without comments at the end of a line; none if it is another kind of text."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if program_of(line) in PROGRAMS]


def program_of(line: str) -> str:
    """The first word of a line that assigns no variable, without the folder it is in."""
    words = line.split()
    while words and ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    return words[0].rpartition("/")[2] if words else ""


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block") and not token.info.startswith("{"):
            start = token.map[0]
            above = next((line for line in reversed(lines[:start]) if line.strip()), "")
            marked = MARKER.fullmatch(above.strip())
            yield Block(page, start + 1, token.info, token.content, marked and marked[1])


def spans_of(page: Path) -> Iterator[str]:
    """Yield the code inside the lines of a page, tables included."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]

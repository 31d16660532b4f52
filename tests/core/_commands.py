"""The commands in documents and example files, as words, read by the parsers of torchrun and unipruning."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

FROM_ELSEWHERE = {"--config", "--preset"}
STARTERS = {"exec", "srun"}  # words before a command that start it


def in_shell(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of ours in lines of a shell, without what starts it."""
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"(\w+ )?(torchrun|unipruning) ", line.strip()):
            words = shlex.split(line, comments=True)
            yield [word for word in words[words[0] in STARTERS :] if word != "&"]


def in_markdown(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of ours in the blocks of code of a document."""
    for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from in_shell(block)


def in_manifests(manifests: list[dict]) -> Iterator[list[str]]:
    """Yield the words of each container's command in manifests of Kubernetes."""
    for manifest in manifests:
        for container in manifest["spec"].get("template", {}).get("spec", {}).get("containers", ()):
            yield [*container["command"], *container["args"]]


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Containerfile with what follows them, without comments."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


def options_of(words: list[str]) -> tuple[object, object]:
    """The options that torchrun, or None, and unipruning find in a command; an error if there is another."""
    from torch.distributed.run import get_args_parser

    from unipruning_core.cli.main import build_parser

    if words[0] == "unipruning":
        parser = build_parser()
        # what is required may come from a file that is not here
        if FROM_ELSEWHERE.intersection(words):
            return None, parser.commands[words[1]].given(words[2:])
        return None, parser.parse_args(words[1:])
    started = get_args_parser().parse_args(words[1:])
    assert (words[0], started.module, started.training_script) == ("torchrun", True, "unipruning_core")
    return started, build_parser().parse_args(started.training_script_args)

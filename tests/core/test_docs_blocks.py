"""Every block of code of the pages is understood by what it is for, run by a test, or says why it is not.

A command of ours is parsed; of other programs, what can be seen without running them is checked: the files, extras and
targets that they name.  Options within the lines of a text must exist.  ``RUN`` has the pages whose Python tests run.
"""

from __future__ import annotations

import re
import shlex
from itertools import takewhile

import pytest
from _blocks import BLOCKS, PAGES, ROOT, program_of, spans_of
from _commands import options_of
from torch.distributed.run import get_args_parser

import unipruning
from unipruning_core.cli.main import build_parser
from unipruning_core.errors import ConfigError

SETUP, MAKEFILE = (ROOT / "setup.py").read_text(), (ROOT / "Makefile").read_text()
# in test_readme.py, test_api.py, test_export.py and test_docs_run.py
RUN = {
    "README.md",
    "docs/index.md",
    "docs/python.md",
    "docs/tutorial.md",
    "docs/own-scores.md",
    "docs/adding-a-mode.md",
    "docs/after-pruning.md",
    "docs/tuning.md",
}
OTHER_LANGUAGES = {"", "python", "json", "yaml", "toml"}
COMMANDS = build_parser()._subparsers._group_actions[0].choices
OPTIONS = {
    name: {option for action in parser._actions for option in action.option_strings}
    for name, parser in COMMANDS.items()
}
# of torchrun, of docker, and of the scripts of this repository
OTHER_OPTIONS = {option for action in get_args_parser()._actions for option in action.option_strings} | {"--device"}
SCRIPTS = "".join(
    path.read_text() for folder in ("benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py")
)
FLAG = re.compile(r"^\s*[a-z][\w./-]*( [\w./-]+){0,2} --[a-z]")  # a program, a word or two, an option

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def words_of(command: str) -> list[str]:
    """The words of a command, with what a synopsis has in brackets, and before a comment, a ``>`` or an ``&``."""
    # a synopsis names options as [--json]; a pattern of names has its brackets in quotes
    words = shlex.split(re.sub(r"\[(--[^\]]+)\]", r"\1", command), comments=True)
    return list(takewhile(lambda word: word not in ("&", ">"), words))


def check(command: str) -> None:
    """Refuse a command that could not be given like that; SystemExit is the parser's."""
    words = words_of(re.sub(r"^(\w+=\S* )+", "", command))
    program = words[0]
    if program in ("unipruning", "torchrun"):
        options_of([word for word in words if word != "..."])
    elif program == "make":
        goals = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{goal}(?: [\w-]+)*:", MAKEFILE, re.MULTILINE) for goal in goals), command
    elif program in ("python", "python3") and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"{words[1]} is not a file"
    elif program == "pip":
        for extra in re.findall(r"\.\[([\w,]+)\]", command):
            assert all(f'"{name}": ' in SETUP for name in extra.split(",")), command
        assert all((ROOT / word).is_dir() for word in words[2:] if word.startswith("./"))
    else:
        raise AssertionError(f"nothing here can tell whether {command!r} is right; say why it is not run")


@by_page
def test_every_command_is_understood_or_says_why_it_is_not_run(page):
    for block in BLOCKS:
        if block.page == page and not block.why_not_run and block.language in ("", "console"):
            for command in block.commands():
                try:
                    check(command)
                except (SystemExit, ConfigError):
                    pytest.fail(f"{block}: {command}")


@by_page
def test_every_block_of_python_is_run_by_a_test_or_says_why_it_is_not(page):
    if str(page.relative_to(ROOT)) not in RUN:
        assert [
            str(block)
            for block in BLOCKS
            if block.page == page and block.language == "python" and not block.why_not_run
        ] == []


@by_page
def test_no_command_hides_in_what_is_not_read_as_one(page):
    ours = [block for block in BLOCKS if block.page == page]
    assert {block.language for block in ours} <= OTHER_LANGUAGES
    hidden = [
        f"{block}: {line}"
        for block in ours
        if block.language == "" and not block.why_not_run and not block.commands()
        for line in block.text.splitlines()
        if FLAG.match(line)
    ]
    assert hidden == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_option_within_a_line_exists(page):
    for span in spans_of(page):
        words = span.split()
        flags = {match[0] for word in words if (match := re.match(r"--[a-z][\w-]*", word))}
        if words[:1] == ["unipruning"] and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in OPTIONS, span
            assert flags <= OPTIONS[words[1]], span
        elif span.startswith("--"):
            known = set.union(OTHER_OPTIONS, *OPTIONS.values())
            assert [flag for flag in flags - known if f'"{flag}"' not in SCRIPTS] == [], span


def test_every_public_name_of_python_is_in_the_reference():
    named = re.findall(r"^\.\. auto\w+:: (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(unipruning.__all__)


def test_a_marker_stands_before_a_block():
    marked = sum(block.why_not_run is not None for block in BLOCKS)
    assert marked == sum(
        len(re.findall(r"^\s*<!-- not run: .+ -->$", page.read_text(), re.MULTILINE)) for page in PAGES
    )


@pytest.mark.parametrize(
    "command",
    [
        "unipruning prune MODEL --sparsity 60% --out pruned --no-such-option",
        "unipruning prun MODEL",
        "make no-such-target",
        "python benchmarks/no_such_file.py",
        "pip install '.[nosuchextra]'",
        "docker run image",
    ],
)
def test_a_command_that_is_wrong_is_noticed(command):
    with pytest.raises((SystemExit, AssertionError, ConfigError)):
        check(command)


def test_commands_are_told_from_what_they_print():
    assert program_of("OMP_NUM_THREADS=1 build/try/bin/unipruning demo") == "unipruning"
    assert program_of("feedback: 13 of 64 samples") == "feedback:"

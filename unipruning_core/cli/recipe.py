"""A recipe: options of one command or several in a YAML file, each checked as on the command line."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from unipruning_core.cli.arguments import Mixed
from unipruning_core.cli.parser import OneSparsity, Parser, Sparsities
from unipruning_core.cli.places import placed
from unipruning_core.errors import ConfigError, first_line, reason_and_remedy
from unipruning_core.spelling import did_you_mean
from unipruning_core.storage.documents import quoted
from unipruning_core.storage.files import read_bytes

LARGEST_RECIPE = 1 << 20  # bytes
BOOL, NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"
TRUE = ("true", "yes", "on")
PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp"))
QUOTES = "put what begins with @, *, % or a quote between quotes"
# what decides whether and where a result is shown, and no result
OUTSIDE = ("help", "config", "dump_config", "traceback")
UNTOLD = (*OUTSIDE, "quiet")  # what a dump leaves out


class Recipe:
    """The part of a recipe that is for one command: values by destination, and the place of each in the file."""

    def __init__(self, path: Path, name: str, commands: Mapping[str, Parser]) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read, is no YAML, or has a key, a type or a value that the command does not take.
        """
        self.places: dict[str, str] = {}
        self._path, self._parser, self._commands = path, commands[name], commands
        self._found = argparse.Namespace()
        actions = actions_of(self._parser)
        for key, node in self._part(name):
            place = self._place(key)
            action = actions.get(word := key.value.replace("_", "-"))
            if action is None:
                raise ConfigError(f"{place}: '{self._parser.prog}' has no option {key.value!r}{self._hint(word)}")
            if (earlier := self.places.get(action.dest)) is not None:
                raise ConfigError(f"{place}: {key.value} is given twice, at {earlier} too; leave out one of them")
            if node.tag != NULL:
                self.places[action.dest] = place
                self._read(action, word, node)
        self.values = {dest: getattr(self._found, dest) for dest in self.places}

    def _part(self, name: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """Return keys and values for one command: all, or those below its name where the file has several parts."""
        pairs = self._pairs(_composed(self._path), "a recipe")
        parts = {
            key.value: node
            for key, node in pairs
            if key.value in self._commands and (isinstance(node, yaml.MappingNode) or node.tag == NULL)
        }
        if not any(isinstance(node, yaml.MappingNode) for node in parts.values()):
            return pairs
        for key, _ in pairs:
            if key.value not in parts:
                hint = did_you_mean(key.value, self._commands) or "; move it below one of them"
                raise ConfigError(
                    f"{self._place(key)}: beside the parts of commands there is {key.value!r}, which is none{hint}"
                )
        if name not in parts:
            raise ConfigError(f"{str(self._path)!r} has no part for {name!r}, only for {', '.join(parts)}")
        return self._pairs(parts[name], f"the part for {name!r}") if parts[name].tag != NULL else []

    def _pairs(self, node: yaml.Node, what: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{self._place(node)}: {what} must be lines such as 'samples: 64', not {_shown(node)}")
        for key, _ in node.value:
            self._text(key, "an option")
        return list(node.value)

    def _read(self, action: argparse.Action, name: str, node: yaml.Node) -> None:
        """Set what an option is given, as the command line would."""
        if action.nargs == 0:
            if node.tag != BOOL:
                raise ConfigError(f"{self._place(node)}: {name} must be true or false, not {_shown(node)}")
            setattr(self._found, action.dest, node.value.lower() in TRUE)
            return
        values = [self._value(action, name, each, text) for each, text in self._texts(action, name, node)]
        several = action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE)
        for value in [values] if several else values:
            with placed(self._place(node)):
                action(self._parser, self._found, value, f"--{name}")

    def _texts(self, action: argparse.Action, name: str, node: yaml.Node) -> Iterator[tuple[yaml.Node, str]]:
        """Yield the words that a value stands for: one, those of a list, or texts with their weights."""
        if isinstance(node, yaml.MappingNode) and isinstance(action, Mixed):
            for source, weight in node.value:
                yield source, f"{self._text(weight, 'a weight')}:{self._text(source, 'a text')}"
        elif isinstance(node, yaml.SequenceNode) and takes_several(action):
            for each in node.value:
                yield each, self._text(each, f"each of {name}")
        else:
            yield node, self._text(node, name)

    def _value(self, action: argparse.Action, name: str, node: yaml.Node, text: str) -> Any:
        with placed(self._place(node)):
            return self._parser.converted(action, text)

    def _text(self, node: yaml.Node, what: str) -> str:
        """Return a scalar as it is written: 2:4 is no number of base 60 here, and ``on`` is a word."""
        if not isinstance(node, yaml.ScalarNode) or node.tag not in PLAIN or node.tag == NULL:
            raise ConfigError(f"{self._place(node)}: {what} must be one word or number, not {_shown(node)}")
        return str(node.value)

    def _hint(self, word: str) -> str:
        if others := [name for name, parser in self._commands.items() if word in actions_of(parser)]:
            return f", which is for {', '.join(others)}; leave it out, or write it below the name of its command"
        return did_you_mean(word, [*actions_of(self._parser), *self._commands]) or "; its help lists those it has"

    def _place(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"


def actions_of(parser: Parser) -> dict[str, argparse.Action]:
    """Return what a recipe can give to a command, by name: options without dashes, arguments in small letters."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest not in OUTSIDE:
            long = [option.removeprefix("--") for option in action.option_strings if option.startswith("--")]
            metavar = str(action.metavar).lower()
            named = metavar if metavar.isidentifier() else action.dest
            found |= dict.fromkeys(long or [named.replace("_", "-")], action)
    return found


def takes_several(action: argparse.Action) -> bool:
    """Return whether an option can be given a list."""
    if action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE):
        return True
    several = isinstance(action, Sparsities | Mixed | argparse._AppendAction)
    return several and not isinstance(action, OneSparsity)


def as_yaml(command: Parser, options: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """Return a recipe that gives a command these options; ``settings`` are those of its mode, defaults included."""
    content: dict[str, Any] = {}
    for name, action in actions_of(command).items():
        if action.help == argparse.SUPPRESS or action.dest in UNTOLD:
            continue
        value = settings.get(action.dest, getattr(options, action.dest))
        # a preset of a search is told as its values, which are those of its name only in this version
        if value is None or value is False or value == [] or (action.dest == "preset" and isinstance(value, str)):
            continue
        content[name] = list(map(_plain, value)) if isinstance(value, list) else _plain(value)
    return str(yaml.safe_dump({options.name: content}, sort_keys=False, allow_unicode=True, width=math.inf))


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, Path) else value


def _composed(path: Path) -> yaml.Node:
    """Return the document of a file.

    Raises:
        ConfigError: it cannot be read, or is not one document of YAML.
    """
    try:
        node = yaml.compose(read_bytes(path, LARGEST_RECIPE).decode("utf-8-sig"), yaml.SafeLoader)
    except OSError as error:
        reason = reason_and_remedy(error, "check the path", path)
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {reason}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is no YAML: {error.problem}; {QUOTES}") from error
    except RecursionError as error:
        raise ConfigError(f"recipe {str(path)!r} is nested too deeply; write lines such as 'samples: 64'") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"recipe {str(path)!r} is no text of YAML: {first_line(error)}; save it as UTF-8") from error
    if node is None:
        raise ConfigError(f"recipe {str(path)!r} is empty; write lines such as 'samples: 64'")
    return node


def _shown(node: yaml.Node) -> str:
    """Return what a message shows of a value."""
    if isinstance(node, yaml.MappingNode):
        return "options below it"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return quoted(node.value) if node.tag in PLAIN and node.value else f"{node.tag.rpartition(':')[2]} {node.value!r}"

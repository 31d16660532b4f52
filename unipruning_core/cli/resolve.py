"""The options of a command from all that gives them: its words, before a recipe or record, a preset, and defaults."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unipruning_core.cli.parser import Once, Parser
from unipruning_core.cli.places import placed
from unipruning_core.errors import ConfigError
from unipruning_core.spelling import did_you_mean


def add_config(parser: Parser) -> None:
    """Add the options that read and print a recipe; nothing that they import is imported for them."""
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--config",
        action=Once,
        type=Path,
        metavar="FILE",
        help="take options from a recipe in YAML, or those of an earlier search or projection from its run.json or "
        "unipruning.json; what is given here beats it",
    )
    recipe.add_argument(
        "--dump-config", action="store_true", help="print the options as a recipe that gives the same, and do nothing"
    )


def parsed(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Return the options of the command that the words name.

    ``places`` has the line of each that a file gives, ``remarks`` what is to be said of that file.

    Raises:
        ConfigError: there is no such command, or it does not take them.
        SystemExit: with 0, after the help or the version is shown.
    """
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), None)
    if place is None:
        parser.given(words)
        raise ConfigError(f"no command is given; there are {', '.join(parser.commands)}")
    common, name = parser.given(words[:place]), words[place]
    if (command := parser.commands.get(name)) is None:
        hint = did_you_mean(name, parser.commands) or f"; there are {', '.join(parser.commands)}"
        raise ConfigError(f"no command is called {name!r}{hint}")
    typed = command.given(words[place + 1 :])
    written, places, remarks = _of_file(typed.get("config"), name, parser.commands)
    # options of which only one may be given: those of the command line put those of the file aside
    for group in command._mutually_exclusive_groups:
        members = [action.dest for action in group._group_actions]
        if len(together := [dest for dest in members if dest in written]) > 1:
            raise ConfigError(f"{places[together[1]]}: {together[1]} is not allowed beside {together[0]}")
        if any(dest in typed for dest in members):
            written = {dest: value for dest, value in written.items() if dest not in members}
    given = {**written, **typed}
    if isinstance(preset := given.get("preset"), str):
        from unipruning_core.cli.presets import options_of

        with placed(None if "preset" in typed else places.get("preset")):
            chosen = options_of(preset, given)
        given = {dest: value for dest, value in chosen.items() if command.has(dest)} | given
    options = command.completed(common | given, partly=bool(typed.get("dump_config")))
    options.places = {dest: place for dest, place in places.items() if dest not in typed}
    options.remarks = remarks
    return options


def _of_file(
    path: Path | None, name: str, commands: dict[str, Parser]
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return what a file gives to a command, the place of each in it, and what is to be said of the file."""
    if path is None:
        return {}, {}, []
    if path.suffix == ".json":
        from unipruning_core.cli.records import recorded

        if (record := recorded(path, name)) is not None:
            values = {dest: value for dest, value in record.values.items() if commands[name].has(dest)}
            return values, dict.fromkeys(values, str(path)), record.remarks
    from unipruning_core.cli.recipe import Recipe

    recipe = Recipe(path, name, commands)
    return recipe.values, recipe.places, []


def dumped(options: argparse.Namespace, command: Parser) -> str:
    """Return the options as a recipe: everything that shapes the result, the defaults of its mode included.

    Raises:
        ConfigError: a setting is none of its mode.
    """
    from unipruning_core.cli.arguments import settings_from
    from unipruning_core.cli.recipe import as_yaml

    return as_yaml(command, options, settings_from(options).to_json() if command.has("metric") else {})

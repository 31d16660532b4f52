"""The parser of the commands: it refuses in one sentence, and tells what was given from what was left out.

It is argparse's, since typer takes about as long to import as all else that ``--help`` needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.parse import looks_like_sparsity
from unipruning_core.spelling import did_you_mean
from unipruning_core.storage.documents import quoted

KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number"}


class Sparsities(argparse.Action):
    """Sparsities, several after one flag or each after its own."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), values])


class Version(argparse.Action):
    """The flag that shows the version, which is looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show the version and exit")

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        from importlib.metadata import version

        print(f"unipruning {version('unipruning')}")
        parser.exit()


class Once(argparse.Action):
    """A value that is given once."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if (earlier := getattr(namespace, self.dest, None)) is not None:
            raise ConfigError(
                f"{option_string} takes one value in '{parser.prog}', not {earlier!r} and {values!r}; run the command "
                "once for each"
            )
        setattr(namespace, self.dest, values)


class OneSparsity(Once, Sparsities):
    """The sparsity of a command that takes only one, so that a second behind it is refused as one."""


class Parser(argparse.ArgumentParser):
    """A parser of one command, or of all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: dict[str, Parser] = {}  # of all of them

    def given(self, words: Sequence[str]) -> dict[str, Any]:
        """Return what the words give, by destination; defaults are left out, and nothing is required.

        Raises:
            ConfigError: there is no such option, or a value is none that it takes.
        """
        asked = words[: words.index("--")] if "--" in words else words
        if {"-h", "--help"}.intersection(asked):
            self.parse_args(words)
        required = [action for action in self._actions if action.required]
        # what is there already is not set to its default
        found = argparse.Namespace(**dict.fromkeys(action.dest for action in self._actions))
        try:
            for action in required:
                action.required = False
            found, unknown = self.parse_known_args(words, found)
        finally:
            for action in required:
                action.required = True
        if unknown:
            self._refuse(next((word for word in unknown if word.startswith("-")), unknown[0]))
        return {name: value for name, value in vars(found).items() if value not in (None, [])}

    def converted(self, action: argparse.Action, text: str) -> Any:
        """Return the value of an option that a word stands for.

        Raises:
            ConfigError: it is none that the option takes.
        """
        value = self._get_value(action, text)
        self._check_value(action, value)
        return value

    def has(self, dest: str) -> bool:
        """Return whether an option or an argument of this command is called so."""
        return any(action.dest == dest for action in self._actions)

    def completed(self, given: dict[str, Any], *, partly: bool = False) -> argparse.Namespace:
        """Return what is given beside the defaults of all else; ``partly`` leaves None where there is none.

        Raises:
            ConfigError: what has no default is not given.
        """
        needed = [action for action in self._actions if action.required and action.dest not in given]
        if needed and not partly:
            *others, last = map(called, needed)
            listed = f"{', '.join(others)} and {last}" if others else last
            raise ConfigError(f"'{self.prog}' needs {listed}; '{self.prog} --help' shows how")
        defaults = {
            action.dest: action.default
            for action in self._actions
            if argparse.SUPPRESS not in (action.default, action.dest)
        }
        return argparse.Namespace(**defaults | given)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as ``argparse`` does, after each sparsity has got a flag of its own, so that none takes a name."""
        return super().parse_known_args(args if args is None else self._one_each(args), namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse in one sentence.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message.removeprefix('argument ')}; '{self.prog} --help' shows how")

    def _one_each(self, words: Sequence[str]) -> list[str]:
        flags = {name for action in self._actions if isinstance(action, Sparsities) for name in action.option_strings}
        done: list[str] = []
        flag = ""  # that another sparsity may follow
        rest = iter(words)
        for word in rest:
            name, equals, _ = word.partition("=")
            if flag and looks_like_sparsity(word):
                done += [flag, word]
                continue
            done.append(word)
            flag = name if name in flags else ""
            if flag and not equals:
                done += [value for value in [next(rest, None)] if value is not None]
            elif word == "--":
                break
        return [*done, *rest]

    def _refuse(self, word: str) -> NoReturn:
        """Refuse a word that no option and no argument of this command takes."""
        if word.startswith("-"):
            name = word.partition("=")[0]
            shown = (action.option_strings for action in self._actions if action.help != argparse.SUPPRESS)
            hint = did_you_mean(name, chain.from_iterable(shown)) or f"; '{self.prog} --help' lists those it has"
            raise ConfigError(f"'{self.prog}' has no option {name!r}{hint}")
        arguments = [str(action.metavar) for action in self._actions if not action.option_strings]
        taken = " and ".join(arguments) or "options alone"
        raise ConfigError(f"'{self.prog}' takes {taken}, and no {word!r} besides; '{self.prog} --help' shows how")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if action.type not in KINDS:
                raise
            kind = KINDS[action.type]
            raise ConfigError(f"{called(action)} must be {kind}, not {quoted(arg_string)}") from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            hint = did_you_mean(str(value), known)
            raise ConfigError(f"{called(action)} must be one of {', '.join(known)}, not {quoted(value)}{hint}")


def checked_by(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return a type of an option: the word as it is, once ``check`` has accepted it."""

    def word(text: str) -> str:
        check(text)
        return text

    return word


def called(action: argparse.Action) -> str:
    """Return what a message calls an option or an argument."""
    return str(action.option_strings[-1] if action.option_strings else action.metavar)

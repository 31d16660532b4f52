"""Arguments that several commands share, and their conversion to choices; imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from unipruning_core.cli.parser import Sparsities, checked_by
from unipruning_core.cli.places import place_of, placed
from unipruning_core.data.sources import parse_weighted
from unipruning_core.errors import ConfigError
from unipruning_core.models.choice import TargetChoice, compiled
from unipruning_core.models.named import check_dtype
from unipruning_core.progress import Progress, as_progress
from unipruning_core.search.choice import Flag, Kind, flags, settings_of, spelled
from unipruning_core.search.modes import DEFAULT_MODE, MODES
from unipruning_core.sparsity.parse import parse_sparsity

if TYPE_CHECKING:
    from unipruning_core.search.settings import Settings

Arguments = argparse._ActionsContainer  # a parser or a group of its options
Command = Callable[..., Any]  # declares a command: name, handler, summary, details

SPARSITY_HELP = """how much to prune, one or more: 60%%/matrix of each matrix, 60%%/row of each output row,
60%%/global of all matrices together, 60%%/model of all weights of the model, 60%% with the scope that suits the search,
N:M such as 2:4, @FILE for a budget file, or mixed patterns such as 2:4+dense@45%%"""
TEXT_HELP = """a .jsonl, .json, .csv, .tsv, .parquet or plain text file, compressed or not; a folder or pattern of such
files; a folder that save_to_disk wrote; wikitext2, c4, or a data set on the hub (default: %(default)s)"""
MIXED_HELP = f"{TEXT_HELP}; may be repeated to mix texts, with weights such as 0.7:FILE (without one: 1)"
SEQ_LEN_HELP = "default: 2048, or the model's maximum if shorter"


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder with safetensors weights, or a hub id")
    add_loading(parser)


def add_model_files(parser: argparse.ArgumentParser) -> None:
    """A model of which only files are read: no weights are loaded, so ``--dtype`` is understood and not shown."""
    parser.add_argument("model", metavar="MODEL", help="a folder with safetensors weights, or a hub id")
    parser.add_argument("--trust-remote-code", action="store_true", help="download code that comes with the model too")
    add_revision(parser)
    add_earlier_name(parser, "--dtype", "dtype")


def add_outline(parser: argparse.ArgumentParser) -> None:
    """Add a model of which the config is enough."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder or file with a config, a hub id, or a built-in name; the error for a wrong one lists them",
    )


def add_sparsity(parser: Arguments, about: str = SPARSITY_HELP, **named: Any) -> None:
    """Add a sparsity or, for a command that takes several, those that follow one flag or each its own."""
    common = {"action": Sparsities, "metavar": "S [S ...]", "type": checked_by(parse_sparsity)}
    parser.add_argument("--sparsity", help=about, **{**common, **named})


def add_revision(parser: Arguments) -> None:
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the hub (default: its newest)"
    )


def progress_from(options: argparse.Namespace) -> Progress:
    """Return where progress and notes go: to standard error, or nowhere."""
    return as_progress(not options.quiet)


def note_unused_dtype(options: argparse.Namespace) -> None:
    """Say that a ``--dtype`` of a command that loads no weights does nothing."""
    if hasattr(options, "dtype"):
        progress_from(options).note(
            "--dtype has no effect here: weights are read as they are stored, and none are loaded"
        )


def add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=checked_by(check_dtype),
        default="auto",
        help="dtype to load the weights in: auto, float32, bfloat16 or float16",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add_revision(parser)


def add_targets(parser: Arguments) -> None:
    """Add the choice of layers to prune."""
    parser.add_argument(
        "--include",
        action="append",
        type=checked_by(partial(compiled, flag="--include")),
        default=[],
        metavar="PATTERN",
        help="prune the linear layers whose names match, wherever they are, and no others; a name with *, ? and [...], "
        "or re:REGEX; may be repeated, see 'unipruning targets'",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        type=checked_by(partial(compiled, flag="--exclude")),
        default=[],
        metavar="PATTERN",
        help="leave dense what matches, even if it is included; may be repeated",
    )


def targets_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the choice of layers to prune, checked, as keywords of the Python functions."""
    return dict(vars(TargetChoice.of(options.include, options.exclude)))


def add_backend(parser: Arguments) -> None:
    parser.add_argument(
        "--backend", help="a name listed by 'unipruning backends' (default: $UNIPRUNING_BACKEND, else the best)"
    )


def add_text(parser: Arguments, default: str, *, split: str, prefix: str = "") -> None:
    """Add the options of a text; ``split`` is a data set's default, ``prefix`` marks a command's second text."""
    action = "store" if prefix else Single
    parser.add_argument(f"--{prefix}data", default=default, action=action, help=TEXT_HELP)
    _add_parts(parser, split, prefix)


def _add_parts(parser: Arguments, split: str, prefix: str = "") -> None:
    parser.add_argument(f"--{prefix}split", help=f"split of a data set (default: {split})")
    parser.add_argument(
        f"--{prefix}text-column",
        help="column that holds the text, conversations or token ids (default: text, or else messages and the like, "
        "input_ids, or the only column of strings)",
    )
    add_earlier_name(parser, f"--{prefix}field", f"{prefix.replace('-', '_')}text_column")


def add_tokenizer(parser: Arguments) -> None:
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="a folder or a hub id to take the tokenizer from (default: MODEL)"
    )


class Single(argparse.Action):
    """The name of a text that is read alone, where other commands mix those that are given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if getattr(namespace, self.dest, None) not in (None, self.default):
            raise ConfigError(f"{option_string} takes one text, not several; run the command once for each")
        setattr(namespace, self.dest, values)


class Mixed(argparse.Action):
    """The names of texts, which are mixed: a string for one without a weight, or else the weights by name."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        words = [*getattr(namespace, f"{self.dest}_words", []), values]
        setattr(namespace, f"{self.dest}_words", words)
        setattr(namespace, self.dest, parse_weighted(words))


def add_earlier_name(parser: Arguments, name: str, destination: str) -> None:
    """Add an earlier spelling of a flag, accepted but not shown."""
    parser.add_argument(name, dest=destination, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_calibration(parser: argparse.ArgumentParser, *, seed: bool = True) -> Arguments:
    text = parser.add_argument_group("calibration")
    text.add_argument("--data", default="c4", action=Mixed, help=MIXED_HELP)
    _add_parts(text, "train")
    add_tokenizer(text)
    text.add_argument("--samples", type=int, default=128, help="calibration samples (default: %(default)s)")
    text.add_argument("--seq-len", type=int, help=f"tokens per sample ({SEQ_LEN_HELP})")
    text.add_argument(
        "--packing",
        choices=("packed", "document"),
        default="packed",
        help="packed: documents end to end, cut into samples; document: one document per sample (default: %(default)s)",
    )
    if seed:
        text.add_argument(
            "--seed", metavar="N", help="seed of the order of the text and of random subsets (default: 0)"
        )
    return text


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the mode and the settings of all modes, those of only one mode in a separate group."""
    method = parser.add_argument_group("method (published settings default to the published values)")
    about = f"{', '.join(MODES)}; see above (default: {DEFAULT_MODE})"
    method.add_argument("--mode", type=checked_by(lambda mode: settings_of(mode, {})), help=about)
    groups = {mode: parser.add_argument_group(f"only with --mode {mode}") for mode in MODES}
    for flag in flags():
        add_flag(groups[flag.modes[0]] if len(flag.modes) == 1 else method, flag)


def add_flag(parser: Arguments, flag: Flag) -> None:
    """Add one setting and, hidden, its earlier names; the seed is among the options of the text it orders."""
    if flag.name == "seed":
        return
    parser.add_argument(flag.spelled, dest=flag.name, metavar=flag.metavar, help=flag.help)
    for name in flag.formerly:
        add_earlier_name(parser, spelled(name), flag.name)


def given(options: argparse.Namespace, offered: Iterable[Flag]) -> dict[str, str]:
    """Return the values given for some settings, by field, without those that were not given."""
    values = {flag.name: getattr(options, flag.name, None) for flag in offered}
    return {name: value for name, value in values.items() if value is not None}


def settings_from(options: argparse.Namespace) -> Settings:
    """Return the settings given, checked; all others keep their defaults."""
    return built_from(options, flags(), partial(settings_of, options.mode))


def built_from(options: argparse.Namespace, offered: Iterable[Flag], build: Callable[[dict[str, str]], Kind]) -> Kind:
    """Build settings from those given, each checked alone before, so that a refusal has the place of what is wrong."""
    values = given(options, offered)
    for name, value in values.items():
        with placed(place_of(options, name)):
            build({name: value})
    return build(values)


def loading_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options for loading a model and computing, as keywords of the Python functions, and what is shown."""
    names = ("dtype", "trust_remote_code", "revision", "backend")
    return {name: getattr(options, name) for name in names} | {"progress": progress_from(options)}


def calibration_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the calibration samples, as keywords of the Python functions."""
    names = ("data", "split", "text_column", "tokenizer", "samples", "seq_len", "packing")
    return {name: getattr(options, name) for name in names}

"""The commands that write a pruned checkpoint in another format, and unpack one: export and unpack."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from unipruning_core.cli.arguments import Command, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.errors import ConfigError
from unipruning_core.progress import size_text
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.outputs import check_new

if TYPE_CHECKING:
    from unipruning_core.export.registry import Formats

DETAILS = """\
Alone or with --list it lists the formats: what zeros save in each, which runtime computes less for them, and what is
missing to write it.  DIR must not exist.  docs/after-pruning.md has the table, and how to add a format.

examples
  unipruning export --list
  unipruning export pruned --to gguf --type Q8_0 --out pruned-gguf
  unipruning export pruned --to packed --out small
"""
UNPACK_DETAILS = """\
Every file gets the bytes that it had when it was packed.

example
  unipruning unpack small --out pruned
"""
WIDTH, INDENT = 118, 13


def add_commands(command: Command) -> None:
    parser = command("export", _export, "write a pruned checkpoint in another format, or list the formats", DETAILS)
    parser.add_argument(
        "pruned", type=Path, nargs="?", metavar="PRUNED", help="a folder that 'unipruning project' wrote"
    )
    parser.add_argument("--list", action="store_true", help="list the formats, and change nothing")
    parser.add_argument("--to", metavar="FORMAT", help="the name of a format in the list (default: safetensors)")
    parser.add_argument("--type", metavar="TYPE", help="type of the numbers, where the format has several")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="accept a type that loses zeros")
    parser.add_argument("--json", action="store_true", help="print JSON")
    unpack = command("unpack", _unpack, "make a pruned checkpoint again from what export has packed", UNPACK_DETAILS)
    unpack.add_argument("packed", type=Path, metavar="PACKED", help="a folder that 'unipruning export' wrote")
    unpack.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")


def _export(options: argparse.Namespace) -> int:
    from unipruning_core.export.registry import DEFAULT, Formats

    formats = Formats()
    if options.list or (options.pruned is None and options.to is None and options.out is None):
        _show_formats(formats, as_json=options.json)
        return 0
    to = options.to or DEFAULT
    formats.requested(to, options.type, force=options.force)
    if options.pruned is None or options.out is None:
        missing = "the folder to export" if options.pruned is None else "the folder to write, as --out DIR"
        raise ConfigError(f"export needs {missing}; pass it, or --list to see the formats")
    check_first(options, "pruned")
    check_new(options.out)
    with collector_at_rest(ours=True):
        from unipruning_core.export.job import export

    chosen = {"type": options.type, "force": options.force}
    exported = export(options.pruned, options.out, to, **chosen, progress=progress_from(options))
    if options.json:
        print(json.dumps(exported.to_json(), indent=1, allow_nan=False))
    else:
        kind = f" {exported.type}" if exported.type else ""
        print(f"{exported.to}{kind}: {exported.folder} ({size_text(exported.bytes)})")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    if not options.packed.is_dir():
        raise ConfigError(
            f"{str(options.packed)!r} is not a folder; pass one that 'unipruning export --to packed' wrote"
        )
    check_new(options.out)
    with collector_at_rest(ours=True):
        from unipruning_core.export.unpacked import unpack

    print(f"unpacked: {unpack(options.packed, options.out, progress_from(options))}")
    return 0


def _show_formats(formats: Formats, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for name, spec in sorted(formats.specs.items()):
        probe = formats.probe(spec)
        about = {"what": spec.what, "types": list(spec.types), "losing": sorted(spec.losing)}
        gains = {"smaller": spec.smaller, "faster": spec.faster}
        rows.append({"name": name, **about, **gains, "available": probe.available, "detail": probe.detail})
    broken = {name: f"{type(error).__name__}: {error}" for name, error in formats.broken.items()}
    if as_json:
        print(json.dumps({"formats": rows, "broken": broken}, indent=1, allow_nan=False))
        return
    for row in rows:
        print(f"{row['name']}: {row['what']}")
        lines = {"available": f"{'yes' if row['available'] else 'no'}, {row['detail']}"}
        if row["types"]:
            marked = [f"{kind} (loses zeros)" if kind in row["losing"] else kind for kind in row["types"]]
            lines["types"] = ", ".join(marked)
        for label, text in {**lines, "smaller": row["smaller"], "faster": row["faster"]}.items():
            print(fill(f"  {label:10} {text}", WIDTH, subsequent_indent=" " * INDENT))
    for name, reason in broken.items():
        print(f"{name}: its plugin failed to load: {reason}")

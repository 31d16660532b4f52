"""Folders that are not ours, names and numbers out of bounds, streams that nobody reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from _crafted import WEIGHTS, Crafted, nothing, write
from _crafted_files import PROJECT, SEARCH, TEXT
from _damage import project_words, search_words
from _server import redirect

LONG = "x" * 300
NUMBERS = [
    ("--seed", "1e20"),
    ("--seed", "-1"),
    ("--learning-rate", "1e38"),
    ("--learning-rate", "nan"),
    ("--samples", "9" * 30),
    ("--samples", "0"),
    ("--seq-len", "-1"),
    ("--seq-len", "9" * 20),
    ("--save-every", "nan"),
    ("--save-every", "-1"),
    ("--local-exponent", "1e400"),
    ("--ramp-sparsity", "nan"),
]
SPREADS = ("1e400", "1e999999999", "-1e999999999", "-1", "nan", "1/0", "1e-999999999")
SPARSITIES = (
    "1e999999999%",
    f"0.{'9' * 5000}%",
    f"{'9' * 5000}:4",
    "٦٠%",
    "2:4+dense@1e9999999%",
    "@",
    "@.",
    "60%/",
    "",
)


def crafted_commands() -> list[Crafted]:
    """Return all of them."""
    return [*_others(), *_names(), *_numbers(), *_streams()]


def _others() -> list[Crafted]:
    """Files of the user, which must stay."""
    resume, foreign = write("out/resume.pdf", b"x"), write("out/run.json", b"{}")

    def with_text(work: Path) -> None:
        (work / "out").mkdir()
        (work / TEXT).rename(work / "out" / TEXT)
        foreign(work)

    def search(out: str, text: str = TEXT) -> list[str]:
        return [*search_words("model", "drift", text, out), "--overwrite"]

    def project(out: str) -> list[str]:
        return [*project_words("model", "run", "60%", out), "--overwrite"]

    run_file = write("model/run.json", b"{}")
    return [
        Crafted("a folder with resume.pdf", resume, SEARCH, keeps=["out/resume.pdf"]),
        Crafted("--overwrite: a folder with resume.pdf", resume, search("out"), keeps=["out/resume.pdf"]),
        Crafted("--overwrite: another's run.json", foreign, search("out"), keeps=["out/run.json"]),
        Crafted("--overwrite: the model itself", run_file, search("model"), keeps=[WEIGHTS, "model/run.json"]),
        Crafted("--overwrite: around the model", write("run.json", b"{}"), search("."), keeps=[WEIGHTS, "run.json"]),
        Crafted("--overwrite: around the text", with_text, search("out", f"out/{TEXT}"), keeps=[f"out/{TEXT}"]),
        Crafted("inside the model", nothing, search_words("model", "drift", TEXT, "model/run"), keeps=[WEIGHTS]),
        Crafted("project: inside the run folder", nothing, project("run/out"), keeps=["run/run.json"]),
        Crafted("project: the run folder", nothing, project("run"), keeps=["run/run.json"]),
        Crafted("a note in a run folder", write("run/n.txt", b"x"), search("run"), "any", ["run/n.txt"]),
        Crafted("a table in a pruned folder", write("pruned/t.csv", b"x"), project("pruned"), "any", ["pruned/t.csv"]),
        Crafted("a link to a run folder", lambda work: (work / "to").symlink_to("run"), search("to"), "any"),
    ]


def _names() -> list[Crafted]:
    def loop(work: Path) -> None:
        (work / "loop").symlink_to("loop")

    prune = ["prune", "model", "--data", TEXT, "--samples", "2", "--seq-len", "16", "--sparsity", "60%", "--out"]
    cases = []
    for name, prepare in ((LONG, nothing), ("loop", loop), ("model/config.json/x", nothing), ("o\0ut", nothing)):
        uses = {
            "search --out": search_words("model", "frozen", TEXT, name),
            "project --out": project_words("model", "run", "60%", name),
            "prune --out": [*prune, name],
            "run folder": project_words("model", name, "60%", "out"),
            "--data": search_words("model", "frozen", f"{name}.txt" if name == LONG else name, "out"),
            "model": search_words(name, "frozen", TEXT, "out"),
            "budget": project_words("model", "run", f"@{name}", "out"),
        }
        cases += [Crafted(f"{use}: {name[:12]!r}", prepare, words) for use, words in uses.items()]
    return [*cases, *(Crafted(f"prune --out {name}", nothing, [*prune, name]) for name in (".", "/", ".."))]


def _numbers() -> list[Crafted]:
    cases = []
    for flag, value in NUMBERS:
        words = [*search_words("model", "feedback", TEXT, "out"), f"{flag}={value}"]
        cases.append(Crafted(f"{flag}={value[:12]}", nothing, words))
    for value in ("1e-46", "1e39"):
        words = [*search_words("model", "drift", TEXT, "out"), f"--step-size={value}"]
        cases.append(Crafted(f"--step-size={value}", nothing, words))
    for spread in SPREADS:
        words = ["allocate", "model", "run-frozen", "--scheme", "owl", "--sparsity", "60%", f"--spread={spread}"]
        wanted = "any" if spread == "1e-999999999" else "refused"
        cases.append(Crafted(f"--spread={spread}", nothing, [*words, "--out", "b.json", "--backend", "cpu"], wanted))
    for sparsity in SPARSITIES:
        words = project_words("model", "run", sparsity, "out")
        cases.append(Crafted(f"--sparsity {sparsity[:20]!r}", nothing, words, "any"))
    return cases


def _streams() -> list[Crafted]:
    return [
        Crafted("standard error is closed", nothing, SEARCH, "done", child=lambda: _closed(2)),
        Crafted("standard error is a broken pipe", nothing, SEARCH, "done", child=lambda: _broken(2)),
        Crafted("standard error is full", nothing, SEARCH, "done", child=lambda: _full(2)),
        Crafted("standard output is closed", nothing, PROJECT, "any", child=lambda: _closed(1)),
        Crafted("standard output is a broken pipe", nothing, PROJECT, "any", child=lambda: _broken(1)),
        Crafted("standard output is full", nothing, PROJECT, "any", child=lambda: _full(1)),
        Crafted("standard output is in latin-1", nothing, SEARCH, "done", child=_latin),
    ]


def _closed(stream: int) -> None:
    # as Python finds a descriptor that was closed before it started
    os.close(stream)
    setattr(sys, "stdout" if stream == 1 else "stderr", None)


def _full(stream: int) -> None:
    redirect(stream, os.open("/dev/full", os.O_WRONLY))


def _broken(stream: int) -> None:
    reading, writing = os.pipe()
    redirect(stream, writing)
    os.close(reading)


def _latin() -> None:
    sys.stdout.reconfigure(encoding="latin-1")
    sys.stderr.reconfigure(encoding="latin-1")

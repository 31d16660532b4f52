"""Commands on a system that is not POSIX, as far as one can be had by taking away what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys

from _folders import SEARCH, succeed
from _killed import tree

# takes away modules, functions, flags and signals, and forbids what such a system forbids: to open a folder, and to
# remove or move what is open
PROGRAM = """
import ctypes, json, os, shutil, signal, subprocess, sys, tempfile

# the libraries see the system that they are built for
import torch, transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("geteuid", "getuid", "getloadavg", "pread", "pwrite", "wait4"):
    delattr(os, name)
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"):
    delattr(os, name)
shutil._use_fd_functions = False  # as shutil decides there by itself
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)


def is_open(path):
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if held == path or held.startswith(path + os.sep):
            return True
    return False


def forbidden(change):
    def changed(path, *rest, **options):
        if isinstance(path, (str, os.PathLike)) and is_open(os.path.realpath(path)):
            raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        return change(path, *rest, **options)

    return changed


for name in ("unlink", "remove", "rename", "replace"):
    setattr(os, name, forbidden(getattr(os, name)))

open_file, load = os.open, ctypes.CDLL.__init__


def open_no_folder(path, *rest, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return open_file(path, *rest, **options)


def load_by_name(library, name, *rest, **options):
    if name is None:
        raise TypeError("bad argument type for built-in operation")
    load(library, name, *rest, **options)


os.open, ctypes.CDLL.__init__ = open_no_folder, load_by_name

from unipruning_core.cli.main import main

for words in json.loads(sys.argv[1]):
    code = main(words)
    print("CODE", code, *words[:1])
"""


def test_every_step_of_a_pruning_works_and_gives_the_same_bytes(model, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIPRUNING_CPU_NATIVE", "0")  # nothing is compiled there
    run, out, text = tmp_path / "run", tmp_path / "out", model[2]
    search = ["search", *model, *SEARCH, "--mode", "drift", "--seed", "0", "--out", run]
    project = ["project", model[0], run, "--sparsity", "50%", "--out", out]
    commands = [
        ["backends"],
        ["targets", model[0]],
        ["plan", model[0], "--seq-len", "16"],
        search,
        [*search, "--overwrite"],
        project,
        [*project, "--overwrite"],
        ["prune", *model, *SEARCH, "--sparsity", "50%", "--sparsity", "2:4", "--out", tmp_path / "both"],
        ["perplexity", model[0], out, "--data", text, "--seq-len", "16"],
        ["dequantize", model[0], "--out", tmp_path / "never"],
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    ran = subprocess.run([sys.executable, "-c", PROGRAM, words], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    codes = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("CODE")]
    assert codes == ["0"] * (len(commands) - 1) + ["2"], ran.stderr
    assert "is not quantised; use it as it is" in ran.stderr
    assert "Traceback" not in ran.stderr
    here = tmp_path / "here"
    succeed(*search[:-1], here / "run")
    succeed("project", model[0], here / "run", "--sparsity", "50%", "--out", here / "out")
    assert (tree(run), tree(out)) == (tree(here / "run"), tree(here / "out"))
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".lock", ".partial") or path.name == "unfinished"]
    assert left == []

"""A process that has imported everything, from which each command of a test is forked: no start-up a case."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TIME_LIMIT = 60.0  # seconds after which a command counts as hanging; one takes about two
LARGEST = 4 << 30  # bytes of memory that a command may have at its peak; one has about half
OUR_COMMANDS = [sys.executable, "-m", "unipruning_core.cli.serve"]  # the process that takes them as orders


def prepare() -> None:
    """Import what commands import, with no thread alive afterwards."""
    os.environ.update(
        OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="0"
    )
    import datasets  # noqa: F401
    import torch
    import tqdm
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    for name in ("cli.main", "compare.job", "jobs.api", "tools.demo.demo", "tools.bench.report", "testing.oracle"):
        importlib.import_module(f"unipruning_core.{name}")
    for name in ("coupled", "drift", "feedback", "frozen", "recording"):
        importlib.import_module(f"unipruning_core.search.{name}")
    for name in ("unipruning_cpu.backend", "unipruning_cuda", "unipruning_npu"):
        importlib.import_module(name)
    # it takes most of the time of loading a tiny model, and is kept
    with contextlib.suppress(ImportError):
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    torch.set_num_threads(1)
    # its thread would hold locks that no forked process can ever release
    tqdm.tqdm.monitor_interval = 0


def alive() -> list[str]:
    """Return the names of all threads but the main one and that of jemalloc, which knows how to fork."""
    threads = [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")]
    return [name for name in threads if name != "jemalloc_bg_thd"][1:]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int  # its exit code, or minus the signal's number
    text: str  # what it printed, on both streams
    seconds: float
    hung: bool
    peak: int  # bytes

    @property
    def done(self) -> bool:
        return self.status == 0 and not self.hung

    @property
    def refused(self) -> bool:
        """Whether it said in one sentence what was wrong."""
        return self.status == 2 and not self.hung and "error: " in self.text and "Traceback (most" not in self.text

    @property
    def silent(self) -> bool:
        """Whether it ended as one that was refused, and left the sentence to another process."""
        return self.status == 2 and not self.hung and not self.text.strip()

    @property
    def fault(self) -> str | None:
        """What no input may cause."""
        if self.hung:
            return "hang"
        if self.peak > LARGEST:
            return "memory"
        return None if self.done or self.refused else "traceback"

    @property
    def last(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1][-300:]


class Command:
    """One of our commands in a forked process, in a session of its own, so that it ends with all it started."""

    def __init__(self, words: Sequence[str], folder: Path, *preparations: Callable[[], None]) -> None:
        call = _main(words)
        self._start(call, folder, preparations)

    @classmethod
    def calling(cls, call: Callable[[], int], folder: Path) -> Command:
        """Run a function in the same way."""
        self = cls.__new__(cls)
        self._start(call, folder, ())
        return self

    def _start(self, call: Callable[[], int], folder: Path, preparations: Sequence[Callable[[], None]]) -> None:
        if threads := alive():
            raise RuntimeError(f"threads are alive, for which a forked process could wait for ever: {threads}")
        self._output = folder.with_name(f"{folder.name}.output-{time.monotonic_ns()}")
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _child(call, folder, self._output, preparations)

    def ended(self, limit: float = TIME_LIMIT) -> Ended:
        """Wait for the end, for at most ``limit`` seconds."""
        hung = False
        while (waited := os.wait4(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() - self.began > limit:
                hung = True
                self.signal(signal.SIGKILL)
                waited = os.wait4(self.pid, 0)
                break
            time.sleep(0.005)
        seconds = time.monotonic() - self.began
        # what it started ends with it
        self.signal(signal.SIGKILL)
        text = self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""
        self._output.unlink(missing_ok=True)
        _, status, usage = waited
        return Ended(os.waitstatus_to_exitcode(status), text, seconds, hung, usage.ru_maxrss * 1024)

    def signal(self, number: int, *, group: bool = True) -> None:
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return


def _main(words: Sequence[str]) -> Callable[[], int]:
    def call() -> int:
        from unipruning_core.cli.main import main

        return main(list(words))

    return call


def _child(call: Callable[[], int], folder: Path, output: Path, preparations: Sequence[Callable[[], None]]) -> None:
    status, began = 1, False
    try:
        os.setsid()
        null, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 0)
        for stream in (1, 2):
            redirect(stream, file)
        os.chdir(folder)
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(temporary)
        import tempfile

        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (2 * LARGEST, 2 * LARGEST))
        _fork_our_commands()
        for prepare_child in preparations:
            prepare_child()
        began = True
        status = call()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # before the command began it is this test's own
        status = 130
        if began:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        # as Python ends a process: what cannot be flushed is an error on standard output only
        for stream, failed in ((sys.stderr, 0), (sys.stdout, 120)):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                status = status or failed
        os._exit(status)


def redirect(stream: int, descriptor: int) -> None:
    """Lead standard output, 1, or standard error, 2, elsewhere, as if the process had begun so."""
    os.dup2(descriptor, stream)
    errors = "strict" if stream == 1 else "backslashreplace"
    file = os.fdopen(stream, "w", encoding="utf-8", errors=errors, buffering=1 if stream == 2 else -1, closefd=False)
    setattr(sys, "stdout" if stream == 1 else "stderr", file)


def _fork_our_commands() -> None:
    """Let commands that start commands fork them too."""
    import multiprocessing

    from unipruning_core.tools import processes

    processes.get_context = lambda _: multiprocessing.get_context("fork")
    real = subprocess.Popen

    def start(words: Sequence[str], **options: object) -> object:
        return Forked(words, **options) if list(words) == OUR_COMMANDS else real(words, **options)

    processes.subprocess.Popen = start


class Forked:
    """As much of ``subprocess.Popen`` as the process of the commands needs."""

    def __init__(self, words: Sequence[str], *, stderr: object = None, **_: object) -> None:
        from unipruning_core.cli.serve import serve

        self.args, self.returncode = words, None
        (orders, ordering), (answering, answers) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for end in (ordering, answering):
                    os.close(end)
                os.dup2(orders, 0)
                os.dup2(answers, 1)
                if hasattr(stderr, "fileno"):
                    os.dup2(stderr.fileno(), 2)
                sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
                status = serve()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        for end in (orders, answers):
            os.close(end)
        self.stdin, self.stdout = os.fdopen(ordering, "w", encoding="utf-8"), os.fdopen(answering, encoding="utf-8")

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        try:
            self.stdin.close()
        finally:
            self.wait()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        began = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.args), timeout)
            time.sleep(0.005)
        return self.returncode


def cleared(folder: Path) -> Path:
    """Make an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

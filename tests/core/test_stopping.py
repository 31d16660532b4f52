"""Signals: the state is saved after the current sample, and one sentence says where the same command goes on."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from _checkpoints import content, save_llama
from test_search import calibration, run

from unipruning_core.cli.main import main
from unipruning_core.jobs import on_disk, opened
from unipruning_core.progress import Progress, Task
from unipruning_core.search import loop
from unipruning_core.stopping import Stopped, explained, signals_as_exceptions
from unipruning_core.storage.ownership import mark
from unipruning_core.storage.staging import UNFINISHED

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


class Raising(Progress):
    """Sends signals to this process when a task has advanced so far."""

    def __init__(self, label, at, *numbers):
        self.label, self.at, self.numbers = label, at, numbers
        self.notes = []

    def note(self, message):
        self.notes.append(message)

    def task(self, label, total, unit, done=0):
        return _Watched(self) if label == self.label else super().task(label, total, unit, done)


class _Watched(Task):
    def __init__(self, progress):
        self.progress, self.done = progress, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def advance(self, amount=1, **shown):
        self.done += amount
        if self.done == self.progress.at:
            for number in self.progress.numbers:
                signal.raise_signal(number)


@pytest.fixture
def model(tmp_path):
    return save_llama(tmp_path / "model")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_after_the_sample_and_the_same_command_goes_on(model, tmp_path, number):
    run(model, tmp_path / "whole")
    with pytest.raises(Stopped) as caught:
        run(model, tmp_path / "cut", progress=Raising("drift", 2, number))
    name = signal.Signals(number).name
    assert str(caught.value) == (
        f"stopped by {name} after sample 2 of 5, which is saved; the same command goes on from there"
    )
    assert caught.value.exit_code == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (tmp_path / "cut" / "unfinished" / "resume-00000002").is_dir()
    run(model, tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize("first", SIGNALS)
def test_an_interruption_after_a_signal_leaves_at_once(model, tmp_path, first):
    with pytest.raises(Stopped) as caught:
        run(model, tmp_path / "cut", progress=Raising("drift", 3, first, signal.SIGINT))
    assert str(caught.value) == "stopped by SIGINT; nothing is saved, and the same command starts anew"
    with pytest.raises(Stopped, match="the state after sample 2 is kept, and the same command goes on from there"):
        run(model, tmp_path / "cut", progress=Raising("drift", 3, first, signal.SIGINT), save_every=0.0)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", [number for number in SIGNALS if number != signal.SIGINT])
def test_a_second_signal_of_a_batch_system_does_not_lose_the_state(model, tmp_path, first, second, monkeypatch):
    saved = loop.Resume.save

    def save(*arguments):
        signal.raise_signal(second)  # while the state is written
        saved(*arguments)

    monkeypatch.setattr(loop.Resume, "save", save)
    with pytest.raises(Stopped, match=f"stopped by {first.name} after sample 2 of 5, which is saved") as caught:
        run(model, tmp_path / "cut", progress=Raising("drift", 2, first, second))
    assert caught.value.exit_code == 128 + first
    assert (tmp_path / "cut" / "unfinished" / "resume-00000002" / "state.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_that_the_program_around_the_search_handles_is_left_to_it(model, tmp_path, number):
    heard = []
    before = signal.signal(number, lambda *arguments: heard.append(arguments[0]))
    try:
        found = run(model, tmp_path / "a", progress=Raising("drift", 2, number))
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert len(found.description["losses"]) == len(calibration().batches)


def test_a_search_that_replaces_another_goes_on_too_and_keeps_the_old_result_until_then(model, tmp_path):
    run(model, tmp_path / "a")
    before = content(tmp_path / "a")
    with pytest.raises(Stopped, match="after sample 2 of 5, which is saved; the same command goes on"):
        run(model, tmp_path / "a", progress=Raising("drift", 2, signal.SIGTERM), overwrite=True)
    assert content(tmp_path / "a").items() >= before.items()
    again = Raising("drift", None)
    run(model, tmp_path / "a", progress=again, overwrite=True)
    assert "resuming after sample 2 of 5" in again.notes
    assert content(tmp_path / "a") == before


@pytest.mark.parametrize(("label", "at"), [("drift", 5), ("writing", 3)])
def test_a_signal_in_the_last_sample_or_the_final_write_waits_for_the_result(model, tmp_path, label, at):
    with pytest.raises(Stopped, match="stopped by SIGTERM; the search was finished first, and is in"):
        run(model, tmp_path / "a", progress=Raising(label, at, signal.SIGTERM))
    run(model, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_state_that_cannot_be_saved_on_a_signal_is_said(model, tmp_path, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.Resume, "save", save)
    with pytest.raises(Stopped) as caught:
        run(model, tmp_path / "cut", progress=Raising("drift", 2, signal.SIGTERM))
    assert str(caught.value) == (
        "stopped by SIGTERM after sample 2 of 5, which could not be saved (No space left on device); nothing is saved, "
        "and the same command starts anew"
    )


def test_what_is_ignored_stays_ignored_and_other_threads_install_nothing(model, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = run(model, tmp_path / "a", progress=Raising("drift", 2, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(found.description["losses"]) == len(calibration().batches)
    results = []
    thread = threading.Thread(target=lambda: results.append(run(model, tmp_path / "b")))
    thread.start()
    thread.join()
    assert len(results) == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_stopped_says_one_sentence(home, capsys, monkeypatch, number):
    cleaned = []

    def measured(*_):
        try:
            signal.raise_signal(number)
            pytest.fail("went on")
        finally:
            cleaned.append(True)

    monkeypatch.setattr(on_disk, "measured", measured)
    words = ["perplexity", str(home / "model"), "--data", str(home / "text.txt"), "--seq-len", "16"]
    assert main(words) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped by {signal.Signals(number).name}; the same command starts anew"
    )
    assert cleaned == [True]


def test_a_search_that_has_not_begun_says_what_an_earlier_one_saved(search_words, tmp_path, capsys, monkeypatch):
    words = ["search", *search_words, "--out", str(tmp_path / "run")]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opened, "load_model", interrupted)
        assert main(words) == 130
        said = "stopped by SIGINT; nothing is saved, and the same command starts anew"
        assert capsys.readouterr().err.splitlines()[-1] == said
        work = tmp_path / "run" / UNFINISHED
        (work / "resume-00000003").mkdir(parents=True)
        mark(work, "run")
        assert main(words) == 130
        said = "stopped by SIGINT; the state after sample 3 is kept, and the same command goes on from there"
        assert capsys.readouterr().err.splitlines()[-1] == said


def test_prune_says_that_its_search_is_kept(search_words, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    words = ["prune", *search_words, "--mode", "frozen", "--sparsity", "50%", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(on_disk, "project", interrupted)
        assert main(words) == 143
    kept = f"the search is finished and kept in {str(tmp_path / 'out-run')!r}, from where the same command goes on"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM; {kept}"
    assert not (tmp_path / "out").exists()
    assert main(words) == 0


def test_what_has_its_sentence_keeps_it():
    with pytest.raises(Stopped) as caught, explained(lambda: "; outer"), explained(lambda: "; inner"):
        raise KeyboardInterrupt
    assert str(caught.value) == "stopped by SIGINT; inner"


def test_signals_are_as_they_were_after_a_command():
    before = signal.getsignal(signal.SIGTERM)
    with signals_as_exceptions():
        assert signal.getsignal(signal.SIGTERM) is not before
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


WAITING = """
import sys, time
sys.path.insert(0, {tests!r})
from unipruning_core.search import samples
step = samples.Keeper.after
def after(self, done, stopping):
    print(done, flush=True)
    time.sleep(0.3)
    step(self, done, stopping)
samples.Keeper.after = after
from unipruning_core.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_real_search_is_stopped_by_a_signal_and_goes_on(number, search_words, tmp_path, capsys):
    words = ["search", *search_words, "--mode", "drift", "--samples", "20", "--out"]
    code = WAITING.format(tests=os.path.dirname(__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, str(tmp_path / "cut")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [process.stdout.readline().strip() for _ in range(3)] == ["1", "2", "3"]
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == (
        f"stopped by {number.name} after sample 3 of 20, which is saved; the same command goes on from there"
    )
    assert main([*words, str(tmp_path / "cut")]) == 0
    assert "resuming after sample 3 of 20" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

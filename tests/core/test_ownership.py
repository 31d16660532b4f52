"""Locks and markers: one command at a time, and nothing is taken for ours that is not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from _killed import in_a_fork

from unipruning_core.errors import OutputError
from unipruning_core.storage import ownership
from unipruning_core.storage.ownership import LOCK, MARKER, acquire, is_marked, is_ours, locked, mark, remove_marked


@pytest.fixture(params=["flock", "no flock"])
def path(request, tmp_path, monkeypatch):
    """A lock on a file system that has locks, and on one that has none."""
    if request.param == "no flock":

        def unsupported(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", unsupported)
    return tmp_path / LOCK


def holder(process, host=None, command="unipruning search"):
    return json.dumps({"host": host or socket.gethostname(), "process": process, "command": command})


@pytest.fixture(scope="module")
def dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_is_gone_when_it_is_released(path):
    with locked(path, path.parent) as lock:
        assert json.loads(path.read_text())["process"] == os.getpid()
        assert lock.path == path
    assert not path.exists()


def test_a_second_command_is_told_who_holds_the_folder(path, tmp_path):
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            with locked(path, tmp_path):
                os.write(write, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    os.read(read, 1)
    try:
        where = f"process {child} on {socket.gethostname()}"
        with pytest.raises(OutputError, match=rf"is in use by {where} \(.*\), or a command that it started; wait"):
            acquire(path, tmp_path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    # what a killed process leaves is taken over
    with locked(path, tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"host": 1, "process": 2, "command": 3}', "\xff", "[" * 5000])
def test_a_lock_that_says_nothing_is_free_where_the_file_system_knows(content, tmp_path):
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path / LOCK, tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_without_locks_a_dead_process_of_this_host_is_replaced(tmp_path, monkeypatch, dead):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no locks")))
    (tmp_path / LOCK).write_text(holder(dead))
    with locked(tmp_path / LOCK, tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", [holder(1), holder(os.getppid()), holder(2**30, host="elsewhere"), ""])
def test_without_locks_any_other_holder_is_refused_with_the_remedy(content, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
    monkeypatch.setattr(ownership.time, "sleep", lambda _: None)
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(OutputError, match=r"if nothing runs there any more, remove '.*\.unipruning\.lock'"):
        acquire(tmp_path / LOCK, tmp_path)
    assert (tmp_path / LOCK).read_text() == content


def test_a_lock_that_was_removed_and_made_anew_while_waiting_is_not_taken(tmp_path, monkeypatch):
    path, flock, seen = tmp_path / LOCK, fcntl.flock, []
    path.write_text("")

    def slow(descriptor, operation):
        seen.append(descriptor)
        if len(seen) == 1:  # the holder ends and another begins between opening and locking
            path.unlink()
            path.write_text(holder(1))
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(path, tmp_path) as lock:
        assert os.path.samestat(os.fstat(lock.descriptor), path.stat())
    assert len(seen) == 2


def test_releasing_does_not_remove_the_lock_of_another(tmp_path):
    lock = acquire(tmp_path / LOCK, tmp_path)
    (tmp_path / LOCK).unlink()
    other = acquire(tmp_path / LOCK, tmp_path)
    lock.release()
    assert (tmp_path / LOCK).exists()
    other.release()


def test_a_process_that_inherits_the_descriptor_keeps_the_lock(tmp_path):
    lock = acquire(tmp_path / LOCK, tmp_path)
    words = [sys.executable, "-c", "import time; print('x', flush=True); time.sleep(60)"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=(lock.descriptor,))
    try:
        assert child.stdout.read(1) == b"x"
        os.close(lock.descriptor)  # as a kill would
        with pytest.raises(OutputError, match="or a command that it started"):
            acquire(tmp_path / LOCK, tmp_path)
    finally:
        child.kill()
        child.communicate()
    acquire(tmp_path / LOCK, tmp_path).release()


def test_of_twenty_at_once_never_two_hold_a_lock(path, tmp_path):
    def work():
        for _ in range(30):
            try:
                with locked(path, tmp_path):
                    descriptor = os.open(tmp_path / "held", os.O_CREAT | os.O_EXCL)  # fails if another holds it too
                    os.close(descriptor)
                    os.unlink(tmp_path / "held")
            except OutputError:
                pass

    children = []
    for _ in range(20):
        if not (child := os.fork()):
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("elsewhere", path)])
def test_a_lock_that_is_no_file_is_refused(make, tmp_path):
    make(tmp_path / LOCK)
    with pytest.raises((OutputError, OSError)):
        acquire(tmp_path / LOCK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_marker_is_the_same_whoever_writes_it(tmp_path):
    mark(tmp_path, "run")
    assert json.loads((tmp_path / MARKER).read_text()) == {"format": "unipruning-folder/1", "kind": "run"}
    assert is_marked(tmp_path, "run")
    assert not is_marked(tmp_path, "checkpoint")


@pytest.mark.parametrize(
    "content", ["{}", '{"kind": "run"}', "x", " ", '{"format": "unipruning-folder/1", "kind": "run"']
)
def test_another_file_of_that_name_is_no_marker(content, tmp_path):
    (tmp_path / MARKER).write_text(content)
    assert not is_marked(tmp_path, "run")
    assert not is_ours(tmp_path, "run")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(__file__, path)])
def test_a_marker_that_is_no_file_is_none(make, tmp_path):
    make(tmp_path / MARKER)
    assert not is_ours(tmp_path, "run")


def test_a_removal_that_is_killed_leaves_what_is_recognised(tmp_path):
    folder = tmp_path / "work"

    def reset():
        folder.mkdir(exist_ok=True)
        mark(folder, "run")
        (folder / "a").mkdir()
        for name in (LOCK, "a/b", "c"):
            (folder / name).write_text("")

    for number in range(1, 20):
        reset()
        if in_a_fork(lambda: remove_marked(folder), number) == 0:
            assert not folder.exists()
            return
        assert is_ours(folder, "run")
        in_a_fork(lambda: remove_marked(folder))
        assert not folder.exists()
    pytest.fail("it never ends")


@pytest.fixture
def not_posix(monkeypatch):
    monkeypatch.setattr(ownership, "fcntl", None)
    monkeypatch.setattr(ownership.time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))


def test_without_fcntl_a_lock_is_taken_released_and_taken_again(not_posix, tmp_path):
    for _ in range(2):
        with locked(tmp_path / LOCK, tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
        assert not (tmp_path / LOCK).exists()


def test_without_fcntl_a_lock_that_is_there_is_refused_with_the_remedy(not_posix, tmp_path, dead):
    (tmp_path / LOCK).write_text(holder(dead))
    with pytest.raises(OutputError, match=r"if nothing runs there any more, remove '.*\.unipruning\.lock'"):
        acquire(tmp_path / LOCK, tmp_path)
    assert (tmp_path / LOCK).read_text() == holder(dead)

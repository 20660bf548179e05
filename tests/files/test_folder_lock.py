"""Tests of `files.folder_lock`: one writer at a time, in threads and processes, gone with its process."""

import contextlib
import errno
import multiprocessing
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from policy_patch.files import folder_lock
from policy_patch.files.folder_lock import LOCK_NAME, NoLockHere, no_writer, only_writer

fcntl = pytest.importorskip("fcntl", reason="Windows has no locks on folders")

processes = multiprocessing.get_context("spawn")


def without_folder_locks(monkeypatch) -> None:
    """As on NFS, which locks what is open for writing, and no folder is."""

    def refuse(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        return flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", refuse)


def hold(folder: Path, pipe) -> None:
    with only_writer(folder):
        pipe.send("held")
        with contextlib.suppress(EOFError):
            pipe.recv()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder, and the pipe whose end makes it let go."""
    here, there = processes.Pipe()
    process = processes.Process(target=hold, args=(tmp_path, there))
    process.start()
    there.close()
    assert here.recv() == "held"
    yield process, here
    here.close()
    process.join(30)


def test_another_process_waits_and_says_for_how_long(tmp_path, holder):
    with no_writer(tmp_path) as is_alone:
        assert not is_alone
    waited = pytest.raises(TimeoutError, match=r"another process has been writing there for 0.05 seconds")
    with waited, only_writer(tmp_path, patience=0.05):
        pytest.fail("two writers")
    holder[1].close()
    with only_writer(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder[0].pid, signal.SIGKILL)
    with only_writer(tmp_path, patience=30):
        pass


def test_another_thread_waits_and_the_same_one_may_ask_again(tmp_path):
    seen = []

    def ask():
        with no_writer(tmp_path) as is_alone:
            seen.append(is_alone)

    with only_writer(tmp_path), only_writer(tmp_path):
        ask()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    ask()
    assert seen == [True, False, True]
    assert not list(tmp_path.iterdir()), "nothing is left in the folder"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
def test_a_child_that_is_forked_meanwhile_waits_like_others_and_keeps_nothing(tmp_path):
    end, begin = os.pipe()
    has_looked, looked = os.pipe()
    with only_writer(tmp_path):
        child = os.fork()
        if child == 0:
            with no_writer(tmp_path) as is_alone:
                seen = is_alone
            os.write(looked, b"x")
            os.read(end, 1)
            os._exit(int(seen))
        os.read(has_looked, 1)
    with no_writer(tmp_path) as is_alone:
        assert is_alone, "the child keeps what it inherited"
    os.write(begin, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_waiting_costs_no_file_descriptors(tmp_path, holder):
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(TimeoutError), only_writer(tmp_path, patience=0.3):
        pass
    assert len(os.listdir("/dev/fd")) == before


def test_a_fault_under_the_lock_is_not_the_lock_s_and_ends_it(tmp_path):
    for fault in (ValueError, NoLockHere, KeyboardInterrupt):
        with pytest.raises(fault), only_writer(tmp_path):
            raise fault
    with no_writer(tmp_path) as is_alone:
        assert is_alone


def test_a_folder_that_takes_the_place_of_the_locked_one_is_not_locked_yet(tmp_path):
    (tmp_path / "one").mkdir()
    with only_writer(tmp_path / "one"):
        (tmp_path / "one").rename(tmp_path / "old")
        (tmp_path / "one").mkdir()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(folder_lock._try(tmp_path / "one") is not None))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_folder_moved_away_between_opening_and_locking_is_asked_for_again(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    flock, moved = fcntl.flock, []

    def move(descriptor, operation):
        if not moved:
            moved.append((tmp_path / "one").rename(tmp_path / "old"))
            (tmp_path / "one").mkdir()
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", move)
    with only_writer(tmp_path / "one"):
        monkeypatch.undo()
        for name, is_free in (("one", False), ("old", True)):
            descriptor = os.open(tmp_path / name, os.O_RDONLY)
            try:
                flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                assert is_free
            except BlockingIOError:
                assert not is_free
            finally:
                os.close(descriptor)


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    without_folder_locks(monkeypatch)
    with pytest.raises(NoLockHere), no_writer(tmp_path):
        pass
    with only_writer(tmp_path), only_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        failed = []

        def ask():
            try:
                with only_writer(tmp_path, patience=0.05):
                    failed.append("two writers")
            except OSError as error:
                failed.append(type(error).__name__)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert failed == ["Timeout"]
    with only_writer(tmp_path, patience=0.05):
        pass


def test_no_folder_is_no_lock(tmp_path):
    for lock in (no_writer, only_writer):
        with pytest.raises(FileNotFoundError), lock(tmp_path / "nowhere"):
            pass

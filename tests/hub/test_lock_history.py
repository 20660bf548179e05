"""Tests of `hub.lock_history`: whatever happens while a lock is written, no lock is lost."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from policy_patch.errors import LockError
from policy_patch.hub.lock_file import read_lock
from policy_patch.hub.lock_history import history, lock_sha256, roll_back, rolled_back_commits, write_lock
from tests.hub.test_lock_file import LOCK, TOX


def version(number: int):
    """Return a lock whose patch has version `number.0.0`."""
    patch = replace(TOX, version=f"{number}.0.0", commit=f"{number}" * 40)
    return replace(LOCK, stack=(patch,), previous=None, locked_at=f"2026-01-0{number}T00:00:00Z")


@pytest.fixture
def path(tmp_path):
    """A lock file with version 1."""
    write_lock(version(1), tmp_path / "policy-patch.lock", replaces=None)
    return tmp_path / "policy-patch.lock"


def put(path, number: int):
    return write_lock(version(number), path, replaces=lock_sha256(path))


def number_in(path) -> int:
    return int(read_lock(path).stack[0].version[0])


def test_back_and_forward_again(path):
    put(path, 2)
    three = put(path, 3)
    assert [number_in_lock(lock) for lock in history(path).values()] == [1, 2]
    before, now = roll_back(path)
    assert before == three and number_in_lock(now) == number_in(path) == 2
    roll_back(path)
    assert number_in(path) == 1
    with pytest.raises(LockError, match="is the first lock here"):
        roll_back(path)
    roll_back(path, forward=True)
    roll_back(path, forward=True)
    assert read_lock(path) == three
    with pytest.raises(LockError, match="none to go forward to"):
        roll_back(path, forward=True)


def test_locks_of_one_second_are_listed_in_their_order(path):
    """By the hashes alone, the order of these eight would be another one: 1 in 40,320."""
    for number in range(2, 10):
        made = replace(version(number), locked_at="2026-01-01T00:00:00Z")
        write_lock(made, path, replaces=lock_sha256(path))
    found = history(path)
    assert [number_in_lock(lock) for lock in found.values()] == [*range(1, 9)]
    assert list(found) != sorted(found), "the control"


def number_in_lock(lock) -> int:
    return int(lock.stack[0].version[0])


def test_a_new_lock_after_a_roll_back_goes_back_to_what_it_replaced(path):
    put(path, 2)
    roll_back(path)
    put(path, 3)
    roll_back(path)
    assert number_in(path) == 1, "not 2, which was rolled back from"
    roll_back(path, forward=True)
    assert number_in(path) == 3
    assert rolled_back_commits(path) == {("acme/tox-patch", "2" * 40)}
    roll_back(path, to=next(hash_ for hash_, lock in history(path).items() if number_in_lock(lock) == 2)[:8])
    assert number_in(path) == 2


def test_the_same_content_changes_nothing(path):
    before = path.read_bytes()
    assert write_lock(
        replace(version(1), locked_at="2027-01-01T00:00:00Z"), path, replaces=lock_sha256(path)
    ) == version(1)
    assert path.read_bytes() == before and not history(path)


def test_a_lock_that_somebody_changed_meanwhile_stays(path):
    seen = lock_sha256(path)
    put(path, 2)
    for replaces in (seen, None):
        with pytest.raises(LockError, match="was changed by somebody else"):
            write_lock(version(3), path, replaces=replaces)
    assert number_in(path) == 2


@pytest.mark.parametrize(("text", "state"), [(None, "missing"), ("{", "damaged")])
def test_without_a_history_there_is_nothing_to_put_back(path, text, state):
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(LockError, match=f"is {state}, and its history is empty.* version control.*policy-patch lock"):
        roll_back(path)


def test_a_damaged_lock_is_put_back_by_its_hash(path):
    put(path, 2)
    path.write_text("{")
    with pytest.raises(LockError, match=r"is damaged. Say which lock to put back: .*--to HASH.*tox 1.0.0"):
        roll_back(path)
    path.unlink()
    with pytest.raises(LockError, match="is missing"):
        roll_back(path)
    (first,) = history(path)
    with pytest.raises(LockError, match="no lock whose hash begins"):
        roll_back(path, to="ffff")
    with pytest.raises(LockError, match="at least four"):
        roll_back(path, to=first[:2])
    assert roll_back(path, to=first[:10])[0] is None and number_in(path) == 1


def test_an_edited_lock_is_kept_as_it_was(path):
    put(path, 2)
    edited = path.read_text().replace("  ", "    ")
    path.write_text(edited)
    roll_back(path)
    assert number_in(path) == 1
    assert edited in [file.read_text() for file in path.with_name("policy-patch.lock.history").iterdir()]


def test_an_edited_history_is_found_out(path):
    put(path, 2)
    (kept,) = path.with_name("policy-patch.lock.history").iterdir()
    kept.write_text(kept.read_text().replace("1.0.0", "1.0.1"))
    with pytest.raises(LockError, match="is not the lock that its name says"):
        roll_back(path)
    assert number_in(path) == 2
    kept.unlink()
    with pytest.raises(LockError, match="is not in"):
        roll_back(path)


# Disks that fail, and kills


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, so nothing is cleaned up."""


STEPS = ("fsync", "replace", "unlink", "mkdir", "open")


def stopped_at(at: int, fault: BaseException, work) -> bool:
    """Run with a fault in place of call `at` to the system; return whether it came to that."""
    calls = []

    def stopping(name, call):
        def step(*args, **kwargs):
            calls.append(name)
            if len(calls) == at:
                raise fault
            return call(*args, **kwargs)

        return step

    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Killed, LockError):
        for name in STEPS:
            patched.setattr(os, name, stopping(name, getattr(os, name)))
        work()
    return len(calls) >= at


@pytest.mark.parametrize("fault", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"])
@pytest.mark.parametrize("work", ["write", "back"])
def test_whenever_it_ends_the_old_or_the_new_lock_is_there_and_both_are_known(tmp_path, fault, work):
    seen = []
    for at in range(1, 100):
        path = tmp_path / str(at) / "policy-patch.lock"
        write_lock(version(1), path, replaces=None)
        if work == "back":
            put(path, 2)
        stopped = stopped_at(at, fault, lambda path=path: put(path, 2) if work == "write" else roll_back(path))
        seen.append(number_in(path))
        known = {number_in(path), *map(number_in_lock, history(path).values())}
        assert known >= ({1} if work == "write" and number_in(path) == 1 else {1, 2})
        put(path, 3)
        roll_back(path)
        assert number_in(path) == seen[-1]
        if not stopped:
            break
    assert not stopped and set(seen) == {1, 2} and len(seen) > 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX permissions")
def test_a_read_only_folder_is_left_as_it_is(path):
    put(path, 2)
    child = os.fork()
    if child == 0:  # root may write anywhere, so as somebody who may not
        with contextlib.suppress(BaseException):
            for one in (path.parent, *path.parent.rglob("*")):
                one.chmod(0o555 if one.is_dir() else 0o444)
            for one in path.parent.parents:
                with contextlib.suppress(OSError):
                    one.chmod(one.stat().st_mode | 0o055)
            if os.geteuid() == 0:
                os.setuid(65534)
            refused = 0
            for work in (lambda: put(path, 3), lambda: roll_back(path)):
                try:
                    work()
                except LockError as error:
                    refused += "Cannot write" in str(error) and "is intact" in str(error)
            os._exit(refused)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, "both were refused by our error"
    assert number_in(path) == 2 and len(history(path)) == 1


def test_a_full_disk_says_so(path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LockError, match=r"No space left on device. The lock that was there is intact"):
        put(path, 2)
    monkeypatch.undo()
    assert number_in(path) == 1


WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from policy_patch.errors import LockError
from policy_patch.hub.lock_history import history, roll_back
from tests.hub.test_lock_history import number_in, put

path, interrupted = Path(sys.argv[1]), 0
random.seed(0)
for attempt in range(10):
    children = []
    for first in (0, 1):
        child = os.fork()
        if child == 0:
            for turn in range(first, 10**6):
                try:
                    put(path, 1 + turn % 9) if turn % 5 else roll_back(path)
                except LockError as error:
                    assert "somebody else" in str(error) or "first lock" in str(error), error
        children.append(child)
    time.sleep(0.02 + random.random() / 30)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    interrupted += any(".pending" in name for folder in (path.parent, path.with_name(path.name + ".history"))
                       if folder.is_dir() for name in os.listdir(folder))
    assert number_in(path) in range(1, 10)
    history(path)
print("read after every kill; interrupted writes:", interrupted)
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="SIGKILL and fork are POSIX")
def test_two_processes_that_write_and_are_killed_leave_a_lock_and_a_whole_history(path):
    words = [sys.executable, "-c", WRITERS, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert int(done.stdout.split()[-1]) > 0, "no kill fell into a write: the loop proved nothing"

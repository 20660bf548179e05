"""Tests of `files.atomic`: a file is complete or not there, whatever happens meanwhile."""

import os
import re
import secrets
import time

import pytest

from policy_patch.files.atomic import PENDING, new_file, pending_files, remove_pending, write_pending, write_whole


def test_a_file_is_written_and_replaced_with_nothing_left_beside_it(tmp_path):
    for content in (b"first", b"second, longer"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failing):
    write_whole(tmp_path / "file", b"first")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pending_file_stands_beside_its_place_under_a_name_that_nobody_knows(tmp_path):
    pending = [write_pending(tmp_path / "file", b"x") for _ in range(2)]
    assert all(re.fullmatch(r"file\.[0-9a-f]{32}" + re.escape(PENDING), path.name) for path in pending)
    assert pending[0] != pending[1] and not (tmp_path / "file").exists()
    assert sorted(pending_files(tmp_path / "file")) == sorted(pending)


def test_a_large_file_is_filled_beside_its_place_and_then_renamed(tmp_path):
    with new_file(tmp_path / "file") as pending:
        assert not (tmp_path / "file").exists() and pending.parent == tmp_path
        pending.write_bytes(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_large_file_that_is_not_finished_leaves_nothing(tmp_path, error):
    def fill(path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)), new_file(tmp_path / "file") as pending:
        fill(pending)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", ["own", "elsewhere", "nothing"])
def test_a_link_under_the_pending_name_is_not_followed(tmp_path, monkeypatch, at):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)  # as if it had been guessed
    name = tmp_path / f"own.{'0' * 32}{PENDING}"
    name.symlink_to(tmp_path / at)
    for write in (write_whole, write_pending):
        with pytest.raises(FileExistsError):
            write(tmp_path / "own", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["elsewhere", name.name])


def test_names_that_could_be_guessed_are_neither_written_nor_removed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    others = [tmp_path / f"file{ending}" for ending in (PENDING, ".tmp", f".{'x' * 32}{PENDING}")]
    for path in others:
        path.symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "file", b"new")
    remove_pending(tmp_path / "file")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious" and all(path.is_symlink() for path in others)


def test_a_link_in_its_place_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new" and not (tmp_path / "file").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_as_for_any_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", b"x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


def test_what_killed_writers_left_goes_after_an_hour_and_a_writer_at_work_is_left_alone(tmp_path):
    old, young, other = (write_pending(tmp_path / name, b"x") for name in ("file", "file", "file2"))
    an_hour_ago = time.time() - 3700
    for path in (old, other):
        os.utime(path, (an_hour_ago, an_hour_ago))
    write_whole(tmp_path / "file", b"new")
    assert not old.exists() and young.exists() and other.exists()
    remove_pending(tmp_path / "file")
    assert not young.exists() and other.exists()

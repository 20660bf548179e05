"""Tests of `policy_patch.atomic`: a file is complete or not there, whatever happens meanwhile."""

import pytest

from policy_patch.atomic import PENDING, write_pending, write_whole


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


def test_a_pending_file_stands_beside_its_place(tmp_path):
    assert write_pending(tmp_path / "file", b"x") == tmp_path / ("file" + PENDING)
    assert not (tmp_path / "file").exists()

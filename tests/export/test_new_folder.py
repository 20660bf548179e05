"""Tests of `new_folder`: whole or not there at all, and nothing of others is overwritten."""

import errno

import pytest

from policy_patch.errors import ExportError, ModelLoadError
from policy_patch.export.new_folder import new_folder


@pytest.mark.parametrize("is_there", [False, True])
def test_the_folder_appears_whole_at_the_end(tmp_path, is_there):
    target = tmp_path / "deep" / "out"
    if is_there:
        target.mkdir(parents=True)
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not (target / "file").exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x" * (1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_kept(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ExportError, match="holds files; nothing there is overwritten"), new_folder(tmp_path):
        pass
    with pytest.raises(ExportError, match="is a file"), new_folder(tmp_path / "mine"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_full_disk_is_an_error_of_ours_and_an_error_of_ours_stays_itself(tmp_path):
    with pytest.raises(ExportError, match=r"No space left.*Nothing was left there"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ModelLoadError, match="no base"), new_folder(tmp_path / "out"):
        raise ModelLoadError("no base")  # an OSError, too
    assert list(tmp_path.iterdir()) == []

"""Tests of `ui.scratch`: what stays on disk, and for how long."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from policy_patch.ui import scratch as scratch_module
from policy_patch.ui.scratch import Scratch


def test_old_folders_are_swept_and_held_ones_stay(monkeypatch, tmp_path):
    scratch = Scratch()
    held, old = scratch.new(held=True), scratch.new()
    assert held.is_dir() and old.is_dir() and held.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(scratch_module, "KEPT_SECONDS", -1)
    new = scratch.new()
    assert held.is_dir() and not old.exists() and new.is_dir()
    scratch.release(held)
    scratch.sweep()
    assert not held.exists()
    (tmp_path / "other").mkdir()
    scratch.remove(tmp_path / "other")
    assert (tmp_path / "other").is_dir()
    root = new.parent
    del scratch
    assert not root.exists()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody can be asked whether a process runs")
def test_the_old_folder_of_a_page_that_was_killed_is_removed_and_no_other(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").touch()
    names = {
        "old": f"policy-patch-page-{ended.pid}-a", "young": f"policy-patch-page-{ended.pid}-b",
        "runs": f"policy-patch-page-{os.getpid()}-c", "strange": "policy-patch-page-x", "other": "policy-patch-x",
    }  # fmt: skip
    for name in names.values():
        (tmp_path / name / "inside").mkdir(parents=True)
        if name != names["young"]:
            os.utime(tmp_path / name, (1, 1))
    (tmp_path / f"policy-patch-page-{ended.pid}-link").symlink_to(tmp_path / "target")
    Scratch().new()
    assert not (tmp_path / names.pop("old")).exists()
    assert all((tmp_path / name / "inside").is_dir() for name in names.values())
    assert (tmp_path / "target" / "kept").is_file()


def test_a_root_that_others_removed_is_made_again():
    scratch = Scratch()
    shutil.rmtree(scratch.new().parent)
    assert scratch.new().is_dir()

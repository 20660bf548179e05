"""Tests of `ui.visitors`, `.line` and `.scratch`: whose work goes on, who waits, what stays on disk."""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

from policy_patch.ui import scratch as scratch_module
from policy_patch.ui import visitors as module
from policy_patch.ui.line import Line
from policy_patch.ui.scratch import Scratch
from policy_patch.ui.train import _by_recipe, _Live
from policy_patch.ui.visitors import BusyError, StoppedError, Visitors, Watch

pause = threading.Event().wait


def test_work_goes_on_while_its_visitor_waits_for_it_and_a_moment_longer(monkeypatch):
    monkeypatch.setattr(module, "GONE_SECONDS", 0.2)
    visitors = Visitors()
    visitors.is_counting = True
    watch = Watch(visitors, "ann", 60)
    with visitors.connected("ann"), visitors.connected("ann"):
        pause(0.3)
        watch.check()
    with visitors.connected("ben"):
        watch.check()  # gone, but not for long
        pause(0.3)
        with pytest.raises(StoppedError, match="nobody waits"):
            watch.check()
    Watch(visitors, "ann", 60).check()  # new work of the same visitor has its own moment


def test_a_training_ends_while_it_asks_for_answers_before_its_first_step(tmp_path):
    watch = Watch(Visitors(), "ann", 60)
    entries = queue.Queue()
    watch.stop()
    with pytest.raises(StoppedError):
        _by_recipe("toxicity", 10, 5, 1, tmp_path / "patch", _Live(entries, watch))
    assert entries.empty() and not list(tmp_path.glob("patch/*sft*"))


def test_work_ends_when_it_is_stopped_or_takes_too_long():
    visitors = Visitors()  # of a page that no door stands in front of
    watch = Watch(visitors, "ann", 60)
    watch.check()
    watch.stop()
    with pytest.raises(StoppedError, match=r"^Stopped\.$"):
        watch.check()
    with pytest.raises(StoppedError, match="took more than"):
        Watch(visitors, "ann", -1).check()


def test_a_visitor_has_so_many_pieces_of_one_work_running():
    visitors = Visitors()
    with visitors.working("ann", "writing", 2), visitors.working("ann", "writing", 2):
        with pytest.raises(BusyError, match=r"\(writing\)"), visitors.working("ann", "writing", 2):
            pass
        with visitors.working("ann", "looking"), visitors.working("ben", "writing"):
            pass
    with visitors.working("ann", "writing"):
        pass
    assert not visitors._working


def test_visitors_are_forgotten_in_the_end(monkeypatch):
    monkeypatch.setattr(module, "MOST_REMEMBERED", 3)
    visitors = Visitors()
    for number in range(10):
        with visitors.connected(str(number)):
            pass
    assert len(visitors._left) == 3 and not visitors._open


def test_a_line_has_one_place_for_each_visitor_and_an_end():
    visitors, line = Visitors(), Line("training", 2)
    ann, ben = (line.join(name, Watch(visitors, name, 60)) for name in ("ann", "ben"))
    assert (ann.before, ben.before) == (0, 1)
    with pytest.raises(BusyError, match="A training of yours has not ended yet"):
        line.join("ben", Watch(visitors, "ben", 60))
    with pytest.raises(BusyError, match="2 visitors have a training here already"):
        line.join("eve", Watch(visitors, "eve", 60))
    line.stop("eve")
    ann.watch.check()
    line.stop("ann")
    with pytest.raises(StoppedError):
        ann.watch.check()
    ben.watch.check()
    ann.leave()
    ann.leave()
    assert ben.before == 0
    assert line.join("ann", Watch(visitors, "ann", 60)).before == 1


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

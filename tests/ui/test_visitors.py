"""Tests of `ui.visitors`: whose work goes on, and for how long."""

import queue
import threading

import pytest

from policy_patch.ui import visitors as module
from policy_patch.ui.training_run import _by_recipe, _Live
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
        _by_recipe(("toxicity", 10, 5, 1), tmp_path / "patch", _Live(entries, watch))
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

"""Tests of `ui.line`: who works, who waits, and who is refused a place."""

import pytest

from policy_patch.ui.line import Line
from policy_patch.ui.visitors import BusyError, StoppedError, Visitors, Watch


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

"""The picture of a history has a panel for each figure, and marks alarms."""

from dataclasses import replace

import numpy as np

from policy_patch.release.drift_picture import picture_of
from policy_patch.release.drift_rule import DriftRule
from tests.release.drift_reports import Watch, report_of


def test_a_history_becomes_a_picture_and_an_alarm_changes_it():
    watch = Watch(report_of(np.zeros(80)), DriftRule(), 40)
    assert picture_of([]) is None
    for day in range(3):
        watch.look(lambda prompts: np.zeros(40))
        watch.looks[-1] = replace(watch.looks[-1], time=f"2026-11-{10 + day}T12:00:00+00:00")
    quiet = picture_of(watch.looks)
    assert quiet.startswith(b"\x89PNG") and quiet == picture_of(watch.looks)
    failed = replace(watch.looks[-1], verdict="no answer", figures=[], time="2026-11-14T12:00:00+00:00")
    assert picture_of([*watch.looks, failed]) != quiet
    assert picture_of([*watch.looks[:-1], replace(watch.looks[-1], version="1.1.0")]) != quiet
    assert picture_of([replace(failed, figures=[])]) is None

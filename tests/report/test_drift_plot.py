"""The picture of drift draws each figure with its interval, the release beside it, and marks what was worse."""

from datetime import UTC, datetime

from policy_patch.report.drift_plot import DriftSeries, drift_picture
from policy_patch.report.intervals import Estimate


def series(*, is_worse):
    return DriftSeries(
        title="toxic rate", times=[datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2, 3)],
        served=[Estimate(value, value - 0.1, value + 0.1) for value in (0.2, 0.3, 0.6)], release=[0.2, 0.25, 0.2],
        is_worse=is_worse,
    )  # fmt: skip


def test_the_picture_is_a_png_and_an_alarm_is_seen():
    calm, alarm = (drift_picture([series(is_worse=[False, False, last])]) for last in (False, True))
    assert calm.startswith(b"\x89PNG") and calm == drift_picture([series(is_worse=[False] * 3)])
    assert alarm != calm
    assert drift_picture([series(is_worse=[False] * 3)] * 2) != calm, "a panel for each figure"

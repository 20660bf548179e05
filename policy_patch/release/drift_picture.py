"""Makes the picture of a history from its looks. The drawing itself is in `policy_patch.report.drift_plot`.

No file is read or written here.
"""

from collections.abc import Sequence
from datetime import datetime

from policy_patch.release.drift_history import ALARM, NO_ANSWER, DriftLook
from policy_patch.report.drift_plot import DriftSeries, drift_picture
from policy_patch.report.intervals import Estimate


def picture_of(looks: Sequence[DriftLook]) -> bytes | None:
    """Return a history as a PNG: one panel for each figure; None if no look has figures.

    Args:
        looks (`Sequence[DriftLook]`):
            The history, the earliest look first.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    keys = list(dict.fromkeys((figure.scorer, figure.metric) for look in looks for figure in look.figures))
    if not keys:
        return None
    series = []
    for scorer, metric in keys:
        found = [
            (datetime.fromisoformat(look.time), figure)
            for look in looks
            for figure in look.figures
            if (figure.scorer, figure.metric) == (scorer, metric)
        ]
        series.append(
            DriftSeries(
                title=f"{metric}, scored by {scorer}",
                times=[time for time, _ in found],
                served=[Estimate(figure.value, figure.low, figure.high) for _, figure in found],
                release=[figure.release for _, figure in found],
                is_worse=[figure.is_worse for _, figure in found],
            )
        )
    failures = [datetime.fromisoformat(look.time) for look in looks if _has_failed(look)]
    changes, before = [], None
    for look in looks:
        if look.version != before:
            changes.append((datetime.fromisoformat(look.time), f"{look.patch} {look.version}"))
            before = look.version
    return drift_picture(series, failures=failures, changes=changes)


def _has_failed(look: DriftLook) -> bool:
    """Return whether the server did not answer, or an alarm came from the probe alone."""
    return look.verdict == NO_ANSWER or (look.verdict == ALARM and not any(one.is_worse for one in look.figures))

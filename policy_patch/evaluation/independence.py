"""Refuses scorers that filtered the training pairs of the patch that they would measure: they favour it.

Which scorers filtered is in a patch's configuration; scorers themselves are in `scorers.py`.
"""

from collections.abc import Sequence
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.report.independence import filtered_pairs


def check_independence(scorers: Sequence[Any], filtered_by: Sequence[str], *, allowed: bool) -> None:
    """Raise `EvaluationError` if a scorer filtered the training pairs, unless that is allowed."""
    biased = [scorer.name for scorer in scorers if filtered_pairs(scorer.name, filtered_by)]
    if biased and not allowed:
        raise EvaluationError(
            f"`{biased[0]}` filtered the pairs that the patch was trained on, so it favours the patch. Give another "
            "scorer (`--scorers`), or have its figures marked: `allow_filtering_scorers=True` in Python, "
            "`--allow_filtering_scorers` in a shell."
        )

"""Refuses scorers that filtered the training pairs of the patch that they would measure: they favour it.

Which scorers filtered is in a patch's configuration; scorers themselves are in `scorers.py`.
"""

from collections.abc import Sequence
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.privacy.local_names import without_folders


def filtered_pairs(scorer: str, filtered_by: Sequence[str]) -> bool:
    """Return whether a scorer, or a part that two combined scorers share, filtered the training pairs.

    Args:
        scorer (`str`):
            Its name.
        filtered_by (`Sequence[str]`):
            Names of the scorers that filtered them, as a patch's configuration keeps them.
    """
    # A published patch names these scorers without the folders of the machine that trained it.
    parts = set(without_folders(scorer).split(" + "))
    return any(parts & set(without_folders(name).split(" + ")) for name in filtered_by)


def check_independence(scorers: Sequence[Any], filtered_by: Sequence[str], *, allowed: bool) -> None:
    """Raise `EvaluationError` if a scorer filtered the training pairs, unless that is allowed."""
    biased = [scorer.name for scorer in scorers if filtered_pairs(scorer.name, filtered_by)]
    if biased and not allowed:
        raise EvaluationError(
            f"`{biased[0]}` filtered the pairs that the patch was trained on, so it favours the patch. Give another "
            "scorer (`--scorers`), or have its figures marked: `allow_filtering_scorers=True` in Python, "
            "`--allow_filtering_scorers` in a shell."
        )

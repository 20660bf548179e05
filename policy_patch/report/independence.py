"""Says whether a scorer is independent of the training pairs, or helped to choose them and so favours the patch.

The names come from reports and configurations; nothing is scored here.
"""

from collections.abc import Sequence

from policy_patch.privacy.local_names import without_folders


def filtered_pairs(scorer: str, filtered_by: Sequence[str]) -> bool:
    """Return whether a scorer, or a part that two combined scorers share, filtered the training pairs.

    Args:
        scorer (`str`):
            Name of the scorer; `a + b` is one that combines two.
        filtered_by (`Sequence[str]`):
            Names of the scorers that filtered the pairs.
    """
    # A published patch names these scorers without the folders of the machine that trained it.
    parts = set(without_folders(scorer).split(" + "))
    return any(parts & set(without_folders(name).split(" + ")) for name in filtered_by)

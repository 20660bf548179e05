"""Prompts that the field measures with, by name: a dataset on the Hub at one commit, so that they never change.

Nothing of them is in this package; they are fetched, and their licences are their publishers'.
"""

import difflib
from dataclasses import dataclass

from policy_patch.errors import DataError


@dataclass(frozen=True)
class PublicPrompts:
    """One column of one split of a dataset repository, at one commit.

    Args:
        repo_id (`str`):
            On the Hub.
        revision (`str`):
            The commit.
        config_name, split (`str`):
            Which part.
        column (`str`):
            The prompts.
        category (`str`):
            The column of their categories.
    """

    repo_id: str
    revision: str
    config_name: str
    split: str
    column: str
    category: str


# JailbreakBench (arXiv 2404.01318), 100 harmful requests and 100 harmless ones about the same; MIT.
_JAILBREAKBENCH = ("JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc", "behaviors")

PUBLIC_PROMPTS = {
    f"jailbreakbench/{split}": PublicPrompts(*_JAILBREAKBENCH, split, "Goal", "Category")
    for split in ("harmful", "benign")
}


def public_prompts(name: str) -> tuple[list[str], list[str]]:
    """Return the prompts of a name, and the category of each.

    Args:
        name (`str`):
            A key of `PUBLIC_PROMPTS`.

    Raises:
        DataError: no such name, or a dataset without these columns.
        HubError: the Hub does not give the dataset.
        MissingExtraError: `datasets` is not installed.

    Example:

    ```python
    requests, categories = public_prompts("jailbreakbench/harmful")
    ```
    """
    if name not in PUBLIC_PROMPTS:
        near = difflib.get_close_matches(name, PUBLIC_PROMPTS, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise DataError(f"There are no public prompts `{name}`.{hint} There are {', '.join(PUBLIC_PROMPTS)}.")
    from policy_patch.data.hub_datasets import load_hub_dataset

    source = PUBLIC_PROMPTS[name]
    rows = load_hub_dataset(
        source.repo_id, split=source.split, revision=source.revision, config_name=source.config_name
    )
    missing = [column for column in (source.column, source.category) if column not in rows.column_names]
    if missing:
        raise DataError(f"`{source.repo_id}` has no column {missing[0]}; it has {', '.join(rows.column_names)}.")
    return rows[source.column][:], rows[source.category][:]

"""The question "Did you mean ...?" in errors about a name that is not known.

Whether a name is known, and which error is raised, is decided by the caller.
"""

import difflib
from collections.abc import Callable, Iterable


def _in_backticks(name: str) -> str:
    return f"`{name}`"


def near_names(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are spelled most like a given one, the nearest first; none if none is like it.

    Upper and lower case are the same, and so are `-` and `_`. A name is also like one that ends with it after a dot.
    `cutoff` is difflib's: the least similarity, from 0 to 1.

    Example:

    ```python
    >>> from policy_patch.near_names import near_names
    >>> near_names("--Output-Dir", ["--output_dir", "--seed"]), near_names("min_margin", ["seed", "data.min_margin"])
    (['--output_dir'], ['data.min_margin'])

    ```
    """
    spelled = {one: _plain(one) for one in known}
    last = "." + _plain(name).lstrip("_")
    within = [one for one, plain in spelled.items() if plain.endswith(last)]
    near = difflib.get_close_matches(_plain(name), dict.fromkeys(spelled.values()), n=most, cutoff=cutoff)
    return list(dict.fromkeys([*within, *(one for plain in near for one in spelled if spelled[one] == plain)]))[:most]


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    most: int = 1,
    shown: Callable[[str], str] = _in_backticks,
    otherwise: str = "",
    then: str = "",
) -> str:
    """Return the end of an error about an unknown name: the nearest known names, and what else the caller says.

    Args:
        name (`str`):
            The name that was given.
        known (`Iterable[str]`):
            The names that exist.
        most (`int`, *optional*, defaults to `1`):
            How many near names to show at most.
        shown (`Callable[[str], str]`, *optional*):
            How a near name is written. Defaults to backticks around it.
        otherwise (`str`, *optional*):
            Sentence in place of the question if no known name is near.
        then (`str`, *optional*):
            Sentence after that, in either case.

    Example:

    ```python
    >>> from policy_patch.near_names import did_you_mean
    >>> did_you_mean("toxcity", ["toxicity", "bias"], then="There are two.")
    'Did you mean `toxicity`? There are two.'
    >>> did_you_mean("x", ["toxicity", "bias"], otherwise="Choose one.")
    'Choose one.'

    ```
    """
    near = near_names(name, known, most=most)
    question = f"Did you mean {' or '.join(map(shown, near))}?" if near else otherwise
    return " ".join(filter(None, [question, then]))

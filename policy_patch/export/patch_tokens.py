"""The patch tokens of one export: their names, their ids, and which of them each choice of a request stands for.

Each vector of a patch becomes the row of one token. Which rows are free is found by `token_rows.py`.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policy_patch.errors import ExportError

OFF = ("none", "off")  # the words by which a request asks for the base without a patch
_MARKER = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class PatchTokens:
    """The tokens that carry the vectors of some patches, and the choices among them.

    Args:
        marker (`str`):
            32 hexadecimal digits that are part of the name of each token, drawn for this export alone. Text of users
            that does not contain them cannot spell such a name.
        ids (`Mapping[str, tuple[int, ...]]`):
            Name of a patch -> the ids of its tokens, one for each vector, in order.
        choices (`Mapping[str, tuple[str, ...]]`):
            What a request may name -> the patches that it gets, in order. `"none"` and `"off"` are always allowed, and
            are not listed.
        default (`str`):
            The choice of a request that names none.

    Example:

    ```python
    >>> from policy_patch.export.patch_tokens import PatchTokens
    >>> tokens = PatchTokens("0" * 32, {"tox": (7, 8), "bias": (9,)}, {"tox": ("tox",), "both": ("tox", "bias")}, "tox")
    >>> tokens.ids_of("both"), tokens.ids_of("off"), tokens.all_ids
    ((7, 8, 9), (), (7, 8, 9))
    >>> tokens.names_of("tox")
    ('<|patch_00000000000000000000000000000000_0|>', '<|patch_00000000000000000000000000000000_1|>')

    ```
    """

    marker: str
    ids: Mapping[str, tuple[int, ...]]
    choices: Mapping[str, tuple[str, ...]]
    default: str

    def __post_init__(self) -> None:
        if not _MARKER.fullmatch(self.marker):
            raise ExportError(f"`marker={self.marker!r}`; expected 32 hexadecimal digits, as `new_marker` draws them.")
        ids = self.all_ids
        if not ids or len(set(ids)) != len(ids) or min(ids) < 0:
            raise ExportError(f"The patch tokens have the ids {list(ids)}; expected different ones, one a vector.")
        check_choices(self.choices, self.default, set(self.ids))

    @property
    def all_ids(self) -> tuple[int, ...]:
        """The ids of all patch tokens, patch after patch."""
        return tuple(one for ids in self.ids.values() for one in ids)

    @property
    def name_of(self) -> dict[int, str]:
        """Id -> name of every patch token."""
        return {one: f"<|patch_{self.marker}_{number}|>" for number, one in enumerate(self.all_ids)}

    def ids_of(self, choice: str | None = None) -> tuple[int, ...]:
        """Return the ids that a choice puts before the text; by default those of the default choice.

        Raises:
            ExportError: there is no such choice.
        """
        choice = self.default if choice is None else choice
        if choice in OFF:
            return ()
        if choice not in self.choices:
            raise ExportError(f"There is no choice `{choice}`; there are {', '.join([*self.choices, *OFF])}.")
        return tuple(one for patch in self.choices[choice] for one in self.ids[patch])

    def names_of(self, choice: str | None = None) -> tuple[str, ...]:
        """Return the names of the tokens that a choice puts before the text, as [`ids_of`] returns the ids."""
        names = self.name_of
        return tuple(names[one] for one in self.ids_of(choice))


def new_marker() -> str:
    """Return a new marker: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def choices_of(patches: Sequence[str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the choices that a list of patches and stacks offers, by name; a stack is called `"tox+bias"`.

    Args:
        patches (`Sequence[str | Sequence[str]]`):
            Names of patches, and of stacks as sequences of names.

    Example:

    ```python
    >>> from policy_patch.export.patch_tokens import choices_of
    >>> choices_of(["tox", ("tox", "bias")])
    {'tox': ('tox',), 'tox+bias': ('tox', 'bias')}

    ```
    """
    stacks = [(one,) if isinstance(one, str) else tuple(one) for one in patches]
    choices = {"+".join(stack): stack for stack in stacks}
    if len(choices) != len(stacks):
        raise ExportError(f"`patches={list(patches)}` names the same patch or stack twice; name each once.")
    return choices


def check_choices(choices: Mapping[str, tuple[str, ...]], default: str, patches: set[str]) -> None:
    """Raise `ExportError` for choices that a request could not name, or that stand for patches that are not there."""
    if not choices:
        raise ExportError("There is no patch to export. Make one active with `set_patch`, or name some in `patches=`.")
    for choice, stack in choices.items():
        if choice in OFF:
            raise ExportError(f"A patch is called `{choice}`, which means the base alone. Load it by another name.")
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", choice):
            raise ExportError(f"A choice is called `{choice}`; expected letters, digits and any of `-_.+`.")
        if not stack or len(set(stack)) != len(stack) or not set(stack) <= patches:
            raise ExportError(
                f"The choice `{choice}` stands for {list(stack)}; expected one or several different patches of "
                f"{sorted(patches)}."
            )
    if default not in (*choices, *OFF):
        raise ExportError(f"`default={default!r}`; expected one of {', '.join([*choices, *OFF])}.")

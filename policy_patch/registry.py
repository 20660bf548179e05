"""A table of named things: ours, those registered in this process, and those that installed packages offer.

It knows names, clashes and packages that cannot be imported. What the things are is not known here.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from policy_patch.errors import PolicyPatchError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to thing that grows by [`register`] and by installed packages.

    A package offers a thing by an entry point (https://packaging.python.org/specifications/entry-points): its name is
    the name of the thing, its value says where the thing is. The package is imported when the thing is asked for, not
    before, so a broken one stops nobody who does not ask for it.

    Args:
        kind (`str`):
            What the things are, for messages, such as `"risk"`.
        group (`str`):
            Group of the entry points, such as `"policy_patch.risks"`.
        own (`Mapping[str, T]`):
            The things of this package. Nothing takes their names.
        error (`type[PolicyPatchError]`):
            What is raised for a taken name and for a package that cannot be imported.
        made (`Callable[[str, Any], T]`):
            Takes a name and what was registered or offered under it, and returns what is kept. Raises `error` for
            what does not fit.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        own: Mapping[str, T],
        error: type[PolicyPatchError],
        made: Callable[[str, Any], T],
    ) -> None:
        self._kind, self._group, self._error, self._made = kind, group, error, made
        self._own = dict(own)
        self._registered: dict[str, T] = {}
        self._loaded: dict[EntryPoint, T] = {}

    @property
    def at_hand(self) -> dict[str, T]:
        """What can be had without importing another package."""
        return {**self._own, **self._registered}

    def register(self, name: str, thing: Any, *, replace: bool = False) -> None:
        """Add a thing in this process.

        Args:
            name (`str`):
                Its name.
            thing (`Any`):
                The thing, or what `made` makes it from.
            replace (`bool`, *optional*, defaults to `False`):
                Take the place of what was registered under this name before in this process, such as when a cell of a
                notebook is run again.

        Raises:
            PolicyPatchError: a taken name, or what does not fit; of the class that the table was made with.
        """
        if name in self and not (replace and name in self._registered):
            again = " `replace=True` registers it anew." if name in self._registered else ""
            if name not in self._registered and name in (offered := self._offered()):
                again = (
                    f" It is offered by {described(offered[name])}; a module that an entry point names must not "
                    "register the same name itself."
                )
            raise self._error(f"The name {name!r} is taken by another {self._kind}. Choose one of your own.{again}")
        self._registered[name] = self._made(name, thing)

    def __getitem__(self, name: str) -> T:
        offered = self._offered()
        for table in (self._own, self._registered):
            if name in table:
                return table[name]
        point = offered[name]
        if point not in self._loaded:
            self._loaded[point] = self._made_of(point)
        return self._loaded[point]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._offered()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._registered, *self._offered()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _offered(self) -> dict[str, EntryPoint]:
        return offered(self._group, frozenset(self._own))

    def _made_of(self, point: EntryPoint) -> T:
        try:
            return self._made(point.name, point.load())
        except Exception as error:  # whatever the import of another package raises
            raise self._error(
                f"The {self._kind} {point.name!r} cannot be had from {described(point)}: {type(error).__name__}: "
                f"{error} Mend that package or uninstall it."
            ) from error


def offered(group: str, taken: frozenset[str] = frozenset()) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; nothing is imported.

    A name that is taken, by us or by an entry point found before, is left out, and a warning names the entry point.

    Args:
        group (`str`):
            The group, such as `"policy_patch.risks"`.
        taken (`frozenset[str]`, *optional*):
            Names that no package may have.
    """
    return _offered(group, taken, tuple(sys.path))


@lru_cache(maxsize=32)
def _offered(group: str, taken: frozenset[str], path: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in taken or point.name in found:
            logger.warning("The name %r is taken, so %s is left out.", point.name, described(point))
        else:
            found[point.name] = point
    return found


def described(point: EntryPoint) -> str:
    """Return an entry point in words: its line in the package's metadata, its group, and the package."""
    package = f" of the package `{point.dist.name}`" if point.dist is not None else ""
    return f"the entry point `{point.name} = {point.value}` (group `{point.group}`){package}"

"""Checks a stack against the rules of its patches: conflicts, required order, and interference that was measured.

Every stack passes `check_stack`: of a model, of single rows, composed patches, exports, the client and the gateway.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchConflictError
from policy_patch.semver import SEMVER, precedence
from policy_patch.stack_rules import OWN, Reference, read_reference

ON_CONFLICT = ("warn", "refuse", "ignore")
_MOST_PARTS, _MOST_RULES = 256, 4000  # of one patch with its parts; our choice, so that a check takes no long time
OnConflict = str | Callable[[], str]


class PatchConflictWarning(UserWarning):
    """Warns that a stack breaks a rule of one of its patches. With `on_conflict="refuse"` it is an error."""


@dataclass(frozen=True, kw_only=True)
class StackMember:
    """A patch of a stack, as far as rules are about it.

    Args:
        name (`str`):
            Name that it is loaded under.
        repo_id, commit (`str`, *optional*):
            Repository and commit that it comes from.
        risk, patch_version, sha256 (`str`, *optional*):
            From its configuration.
        conflicts, order, interference:
            Its rules, as in [`PolicyPatchConfig`].
        parts (`tuple[StackMember, ...]`):
            For a composed patch: what it is composed of, in order.
    """

    name: str
    repo_id: str | None = None
    commit: str | None = None
    risk: str | None = None
    patch_version: str | None = None
    sha256: str | None = None
    conflicts: Sequence[str] = ()
    order: Mapping[str, Sequence[str]]
    interference: Sequence[Mapping[str, Any]] = ()
    parts: tuple["StackMember", ...] = ()

    def shown(self) -> str:
        """Return its name and version for messages."""
        return f"`{self.name}`" + (f" {self.patch_version}" if self.patch_version else "")


@dataclass(frozen=True)
class Broken:
    """A rule that a stack breaks.

    Args:
        rule (`str`):
            `"conflict"`, `"order"` or `"interference"`.
        message (`str`):
            What is wrong, as a sentence.
    """

    rule: str
    message: str


def member(name: str, config: PolicyPatchConfig, origin: tuple[str | None, str | None] = (None, None)) -> StackMember:
    """Return a patch as a member of a stack.

    Args:
        name (`str`):
            Name that it is loaded under.
        config ([`PolicyPatchConfig`]):
            Its configuration.
        origin (`tuple[str, str]`, *optional*):
            Repository and commit, where known.
    """
    found = StackMember(
        name=name,
        repo_id=origin[0],
        commit=origin[1],
        risk=config.risk,
        patch_version=config.patch_version,
        sha256=config.sha256,
        conflicts=config.conflicts or (),
        order=config.order or {},
        interference=config.interference or (),
        parts=tuple(_part(values) for values in config.composed_from or ()),
    )
    parts, rules = _size(found)
    if parts > _MOST_PARTS or rules > _MOST_RULES:
        raise ConfigError(
            f"`{name}` has {parts} parts and {rules} rules for stacks; at most {_MOST_PARTS} and {_MOST_RULES} are "
            "allowed. It was altered, or written by something else than policy-patch."
        )
    return found


def _size(one: StackMember) -> tuple[int, int]:
    """Return the numbers of parts and of rules of a patch, with those of its parts."""
    inner = [_size(part) for part in one.parts]
    rules = len(one.conflicts) + sum(map(len, one.order.values()))
    return len(inner) + sum(parts for parts, _ in inner), rules + sum(more for _, more in inner)


def _part(values: Mapping[str, Any]) -> StackMember:
    """Return a part of a composed patch. Its entry may come from anybody, so nothing but texts is taken from it."""

    def text(key: str) -> str | None:
        return values.get(key) if isinstance(values.get(key), str) else None

    def texts(found: Any) -> tuple[str, ...]:
        return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()

    order, parts = values.get("order"), values.get("composed_from")
    return StackMember(
        name=text("name") or "part",
        repo_id=text("id"),
        commit=text("commit"),
        risk=text("risk"),
        patch_version=text("patch_version"),
        sha256=text("sha256"),
        conflicts=texts(values.get("conflicts")),
        order={key: texts(order.get(key)) for key in ("after", "before")} if isinstance(order, dict) else {},
        parts=tuple(_part(one) for one in parts if isinstance(one, dict)) if isinstance(parts, list) else (),
    )


def check_stack(members: Sequence[StackMember], *, on_conflict: OnConflict = "warn") -> list[Broken]:
    """Return the rules that a stack breaks, after a warning for each or an error for all.

    A single composed patch is a stack of its parts.

    Args:
        members (`Sequence[StackMember]`):
            The patches, in order.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, or a function that returns one, *optional*, defaults to
            `"warn"`):
            What a broken rule leads to. A function is called only if a rule is broken.

    Raises:
        PatchConflictError: a rule is broken, and `on_conflict` is `"refuse"`.
        ConfigError: `on_conflict` is something else, or a rule cannot be read.
    """
    found = list(dict.fromkeys(broken_rules(members)))
    tell_broken(found, " + ".join(one.name for one in members), on_conflict)
    return found


def tell_broken(found: Sequence[Broken], stack: str, on_conflict: OnConflict) -> None:
    """Warn of each broken rule, or raise an error for all of them. Arguments and errors as of [`check_stack`]."""
    if isinstance(on_conflict, str):
        check_on_conflict(on_conflict)
    if not found:
        return
    on_conflict = on_conflict if isinstance(on_conflict, str) else check_on_conflict(on_conflict())
    if on_conflict == "refuse":
        raise PatchConflictError(
            f"The stack {stack} is refused. {' '.join(one.message for one in found)} Leave a patch out, change the "
            'order, or, if no policy forbids it, accept it knowingly with `on_conflict="warn"`.'
        )
    if on_conflict == "warn":
        for one in found:
            warnings.warn(f"The stack {stack}: {one.message}", PatchConflictWarning, stacklevel=4)


def check_on_conflict(value: str) -> str:
    """Return a value of `on_conflict`. Raises `ConfigError` for any other."""
    if value not in ON_CONFLICT:
        raise ConfigError(f"`on_conflict={value!r}`: expected one of {', '.join(ON_CONFLICT)}.")
    return value


def has_rules(config: PolicyPatchConfig) -> bool:
    """Return whether a patch, or a part of it, may have rules."""
    return bool(config.conflicts or config.order or config.interference or config.composed_from)


def broken_rules(members: Sequence[StackMember]) -> Iterator[Broken]:
    """Yield each rule that a stack breaks: rules of its patches, of composed patches' parts, and measurements."""
    yield from _conflicts_and_order(members)
    leaves = [leaf for one in members for leaf in _leaves(one)]
    for owner in members:
        for entry in owner.interference:
            if entry["verdict"] != "kept" and (
                _is_measured(entry, owner, members) or _is_measured(entry, owner, leaves)
            ):
                yield Broken("interference", _measured_sentence(entry, owner))


def _conflicts_and_order(members: Sequence[StackMember]) -> Iterator[Broken]:
    for position, owner in enumerate(members):
        before, behind = members[:position], members[position + 1 :]
        for text in owner.conflicts:
            for other in _matching(text, (*before, *behind)):
                yield Broken("conflict", f"{owner.shown()} must not be used with {other.shown()} (rule `{text}`).")
        for side, wrong in (("after", behind), ("before", before)):
            for text in owner.order.get(side, ()):
                for other in _matching(text, wrong):
                    yield Broken("order", f"{owner.shown()} must come {side} {other.shown()} (rule `{text}`).")
        yield from _conflicts_and_order(owner.parts)


def _matching(text: str, others: Sequence[StackMember]) -> list[StackMember]:
    reference = read_reference(text)
    return [other for other in others if matches(reference, other)]


def _leaves(one: StackMember) -> list[StackMember]:
    return [leaf for part in one.parts for leaf in _leaves(part)] if one.parts else [one]


def _is_measured(entry: Mapping[str, Any], owner: StackMember, members: Sequence[StackMember]) -> bool:
    """Return whether a measurement is of exactly these patches, in this order."""
    stack = entry["stack"]
    return len(stack) == len(members) and all(
        one is owner if part["sha256"] == OWN else one.sha256 == part["sha256"]
        for part, one in zip(stack, members, strict=True)
    )


def _measured_sentence(entry: Mapping[str, Any], owner: StackMember) -> str:
    against = "its own patch alone" if entry["verdict"] == "breaks" else "the base"
    other = entry["alone"] if entry["verdict"] == "breaks" else entry["base"]
    compared = "" if other is None else f", with {against} {other:.3g}"
    return (
        f"It makes {entry['risk']} worse: {entry['metric']} is {entry['stacked']:.3g}{compared} (measured "
        f"{entry['date']}, {entry['source']}; recorded in {owner.shown()})."
    )


def matches(reference: Reference, other: StackMember) -> bool:
    """Return whether a rule's reference is to this patch, or to a part of it."""
    if any(matches(reference, part) for part in other.parts):
        return True
    if reference.risk is not None:
        return reference.risk in (other.risk or "").split("+")
    if reference.sha256 is not None:
        return reference.sha256 == other.sha256
    if "/" in reference.name:
        is_it = other.repo_id is not None and reference.name.lower() == other.repo_id.lower()
    else:
        is_it = reference.name in (other.name, (other.repo_id or "").rpartition("/")[2])
    return is_it and _in_range(reference, other.patch_version)


def _in_range(reference: Reference, version: str | None) -> bool:
    if reference.version is None:
        return True
    if version is None or not SEMVER.fullmatch(version) or not SEMVER.fullmatch(reference.version):
        return True  # an unknown version may be the one that the rule means
    one, other = precedence(version), precedence(reference.version)
    return {"": one == other, "<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[
        reference.operator
    ]


def check_same_place(configs: Mapping[str, PolicyPatchConfig]) -> None:
    """Raise `ConfigError` if patches, given by name, differ in placement or BOS token and so cannot be stacked."""
    for field in ("placement", "bos_token_id"):
        values = {name: getattr(config, field) for name, config in configs.items()}
        if len(set(values.values())) > 1:
            raise ConfigError(f"A stack needs one `{field}`; these patches differ: {values}.")

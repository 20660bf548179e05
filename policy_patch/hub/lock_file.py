"""The lock file of a deployment, `policy-patch.lock`: which base and which patches, in order, by commit and by hash.

This is the format, read and checked. `policy_patch.release.locking` decides what is locked, `lock_history.py` writes a
lock, and `locked_patches.py` fetches its patches.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_patch._version import __version__
from policy_patch.errors import HubError, LockError, PolicyPatchError
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.hub.fetch import PATCH_FILES
from policy_patch.hub.names import REPO_ID, check_repo_id, check_subfolder, is_commit
from policy_patch.lab.checkpoints import lab_patch
from policy_patch.near_names import did_you_mean
from policy_patch.semver import SEMVER

LOCK_NAME = "policy-patch.lock"
LOCK_VERSION = 1
LARGEST_LOCK = 2**20  # bytes; our choice, a patch takes about 700
_MOST_PATCHES, _MOST_FILES = 256, 1000  # our choice
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_. +-]+(?:/[A-Za-z0-9_. +-]+)*", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class LockedBase:
    """The base of a deployment.

    Args:
        id (`str`):
            Hub id, folder, or `lab:base`.
        commit (`str`, *optional*):
            Commit of the Hub id; None for a folder.
        fingerprint_sha256 (`str`, *optional*):
            Hash of the fingerprint of the base in the first patch that has one, by `policy_patch.base.identity`.
    """

    id: str
    commit: str | None = None
    fingerprint_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class LockedPatch:
    """One patch of a deployment. It has either `id` and `commit`, or `folder`.

    Args:
        name (`str`):
            What it is called where it is served.
        id (`str`, *optional*):
            Repository on the Hub.
        commit (`str`, *optional*):
            Commit of the repository, 40 hexadecimal digits. Tags move, commits do not.
        folder (`str`, *optional*):
            Folder on this machine; if it is relative, from the folder of the lock file. Or a patch of the lab, such as
            `lab:toxicity`.
        subfolder (`str`, *optional*):
            Folder inside the repository.
        version (`str`):
            Version of the patch.
        asked (`str`):
            The range, tag or branch that was asked for; `upgrade` stays within it.
        risk (`str`, *optional*):
            The risk that the patch lowers.
        sha256 (`dict[str, str]`):
            Hash of each file but the card.
        signed_by (`str`, *optional*):
            Fingerprint of the key whose signature was verified when the patch was locked.
    """

    name: str
    version: str
    sha256: dict[str, str]
    id: str | None = None
    commit: str | None = None
    folder: str | None = None
    subfolder: str | None = None
    asked: str = "*"
    risk: str | None = None
    signed_by: str | None = None

    @property
    def source(self) -> str:
        """The patch for messages and commands: `org/tox-patch@v1.2.0`, or the folder."""
        return f"{self.place}@v{self.version}" if self.id else str(self.folder)

    @property
    def place(self) -> str:
        """Repository and folder in it, as `policy-patch lock` takes them, or the folder on this machine."""
        return "/".join(filter(None, [self.id, self.subfolder])) if self.id else str(self.folder)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a deployment runs: a base, and a stack of patches in order.

    Args:
        base ([`LockedBase`]):
            The base.
        stack (`tuple[LockedPatch, ...]`):
            The patches, in the order in which their vectors stand.
        locked_at (`str`):
            Time in UTC, `2026-01-31T12:00:00Z`.
        previous (`str`, *optional*):
            SHA-256 of the text of the lock that this one replaced.
        policy_patch_version (`str`):
            Version of the package that wrote it.
        lock_version (`int`):
            Version of the format.
    """

    base: LockedBase
    stack: tuple[LockedPatch, ...]
    locked_at: str
    previous: str | None = None
    policy_patch_version: str = __version__
    lock_version: int = field(default=LOCK_VERSION)

    @property
    def names(self) -> list[str]:
        """Names of the patches, in order."""
        return [patch.name for patch in self.stack]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; keys without a value are left out."""
        return {
            "lock_version": self.lock_version,
            "policy_patch_version": self.policy_patch_version,
            "locked_at": self.locked_at,
            "previous": self.previous,
            "base": _given(self.base),
            "stack": [_given(patch) for patch in self.stack],
        }

    def to_json(self) -> str:
        """Return the text of a lock file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def same_content(self, other: "Lock") -> bool:
        """Return whether two locks lock the same base and patches, whenever they were written."""
        return (self.base, self.stack) == (other.base, other.stack)


def _given(value: Any) -> dict[str, Any]:
    return {name: found for name, found in vars(value).items() if found is not None}


def read_lock(path: str | os.PathLike = LOCK_NAME) -> Lock:
    """Read a lock file.

    Raises:
        LockError: there is none, it cannot be read, or it is not one.
    """
    try:
        return lock_from_json(read_text(path, largest=LARGEST_LOCK), f"`{os.fspath(path)}`")
    except Fault as fault:
        raise LockError(f"{fault.at(f'`{os.fspath(path)}`')}, so it is no lock file. {_AGAIN}") from fault
    except FileNotFoundError as error:
        raise LockError(
            f"There is no lock file `{os.fspath(path)}`. Make one: `policy-patch lock org/tox-patch --lock "
            f"{os.fspath(path)}`."
        ) from error
    except OSError as error:
        raise LockError(f"The lock file `{os.fspath(path)}` cannot be read: {error}.") from error


_AGAIN = "Take it from version control, roll back (`policy-patch rollback`), or lock again (`policy-patch lock`)."


def lock_from_json(text: str, source: str) -> Lock:
    """Return the lock in a text.

    Raises:
        LockError: the text is no lock, or of a newer format.
    """
    try:
        values = parse_json(text, allow_nan=False)
    except ValueError as error:
        reason = error.at("it") if isinstance(error, Fault) else error
        raise LockError(f"{source} is no valid JSON ({reason}). {_AGAIN}") from error
    version = values.get("lock_version") if isinstance(values, dict) else None
    if type(version) is not int or version < 1:
        raise LockError(f"{source} has `lock_version={version!r}`; expected a whole number from 1. {_AGAIN}")
    if version > LOCK_VERSION:
        raise LockError(
            f"{source} has `lock_version={version}`; policy-patch {__version__} reads up to {LOCK_VERSION}. It was "
            "written by a newer version: upgrade policy-patch."
        )
    reader = _Reader(source)
    reader.check_keys(values, Lock, "")
    base, stack = values.get("base"), values.get("stack")
    if not isinstance(stack, list) or not 1 <= len(stack) <= _MOST_PATCHES:
        reader.refuse("stack", f"expected a list of 1 to {_MOST_PATCHES} patches")
    lock = Lock(
        base=reader.base(base),
        stack=tuple(reader.patch(one, f"stack[{place}]") for place, one in enumerate(stack)),
        locked_at=reader.text(values, "locked_at", "", pattern=_TIME, what="a time like 2026-01-31T12:00:00Z"),
        previous=reader.text(values, "previous", "", optional=True, pattern=_SHA256, what="a SHA-256"),
        policy_patch_version=reader.text(values, "policy_patch_version", ""),
    )
    if len(set(lock.names)) != len(lock.names):
        reader.refuse("stack", f"two patches have one name ({', '.join(lock.names)})")
    return lock


class _Reader:
    """Reads the parts of a lock and refuses what they may not be."""

    def __init__(self, source: str) -> None:
        self._source = source

    def refuse(self, where: str, problem: str) -> Any:
        raise LockError(f"{self._source}, `{where}`: {problem}. {_AGAIN}")

    def check_keys(self, values: Any, kind: type, where: str) -> None:
        """Refuse a value that is no object, and keys that nothing reads: they would look as if they had an effect."""
        if not isinstance(values, dict):
            self.refuse(where, f"it is a {type(values).__name__}; expected an object")
        known = kind.__dataclass_fields__
        for key in values:
            if key not in known:
                self.refuse(f"{where}.{key}".strip("."), f"an unknown key. {did_you_mean(key, known)}".strip(" ."))

    def text(
        self, values: dict[str, Any], key: str, where: str, *, optional: bool = False, pattern: Any = None,
        what: str = "a text",
    ) -> Any:  # fmt: skip
        """Return a text of the lock, None where an optional one is missing."""
        found = values.get(key)
        if found is None and optional:
            return None
        is_right = isinstance(found, str) and 0 < len(found) <= 4096 and found.isprintable()
        if not is_right or (pattern is not None and not pattern.fullmatch(found)):
            self.refuse(f"{where}.{key}".strip("."), f"it is {str(found)[:80]!r}; expected {what}")
        return found

    def base(self, values: Any) -> LockedBase:
        """Return the base."""
        self.check_keys(values, LockedBase, "base")
        base_id = self.text(values, "id", "base")
        commit = self._commit(values, "base")
        if commit is not None:
            self._check_repository(base_id, "base.id", HubError)
        hash_ = self.text(values, "fingerprint_sha256", "base", optional=True, pattern=_SHA256, what="a SHA-256")
        return LockedBase(id=base_id, commit=commit, fingerprint_sha256=hash_)

    def patch(self, values: Any, where: str) -> LockedPatch:
        """Return a patch of the stack."""
        self.check_keys(values, LockedPatch, where)
        texts = {
            key: self.text(values, key, where, optional=True)
            for key in ("id", "folder", "subfolder", "risk", "signed_by")
        }
        commit = self._commit(values, where)
        if (texts["id"] is None) == (texts["folder"] is None) or (texts["id"] is None) != (commit is None):
            self.refuse(where, "expected `id` with `commit`, or `folder` alone")
        if texts["id"] is not None:
            self._check_repository(texts["id"], f"{where}.id", PolicyPatchError)
        if texts["subfolder"] is not None:
            self._checked(f"{where}.subfolder", PolicyPatchError, check_subfolder, texts["subfolder"])
        return LockedPatch(
            name=self.text(values, "name", where, pattern=_NAME, what="letters, digits, `-`, `_` and single dots"),
            version=self.text(values, "version", where, pattern=SEMVER, what="a semantic version"),
            asked=self.text(values, "asked", where),
            commit=commit,
            sha256=self._hashes(values.get("sha256"), f"{where}.sha256"),
            **texts,
        )

    def _hashes(self, values: Any, where: str) -> dict[str, str]:
        if not isinstance(values, dict) or not set(PATCH_FILES) <= set(values) or len(values) > _MOST_FILES:
            self.refuse(where, f"expected the hashes of {' and '.join(PATCH_FILES)}, and maybe of files beside them")
        for name in values:
            parts = name.split("/")
            if not _FILE.fullmatch(name) or len(name) > 250 or {"", ".", ".."} & set(parts):
                self.refuse(where, f"`{name[:80]}` is no file of a patch")
        return {name: self.text(values, name, where, pattern=_SHA256, what="a SHA-256") for name in sorted(values)}

    def _commit(self, values: dict[str, Any], where: str) -> str | None:
        commit = self.text(values, "commit", where, optional=True)
        if commit is not None and not is_commit(commit):
            self.refuse(f"{where}.commit", f"it is {commit[:80]!r}; expected 40 hexadecimal digits (tags move)")
        return commit

    def _check_repository(self, name: str, where: str, error: type[Exception]) -> None:
        if not REPO_ID.fullmatch(name):
            self.refuse(where, f"`{name[:80]}` is not the name of a repository")
        self._checked(where, error, check_repo_id, name)

    def _checked(self, where: str, error: type[Exception], check: Any, value: str) -> None:
        try:
            check(value)
        except error as fault:
            raise LockError(f"{self._source}, `{where}`: {fault}") from fault


def folder_of(patch: LockedPatch, lock_path: str | os.PathLike) -> Path:
    """Return the folder of a patch that was locked from this machine."""
    return lab_patch(patch.folder or "") or Path(lock_path).resolve().parent / (patch.folder or "")

"""Advisories about flaws of bases and of patch releases, in the Open Source Vulnerability format (OSV schema 1.7).

This is what one says, read strictly: by the official schema, and then by what an audit needs. Where they come from is
in `advisory_files.py`, writing one in `advisory_template.py`, comparing them with a deployment in `auditing.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from policy_patch.base.identity import fingerprint_sha256
from policy_patch.base.recorded_fingerprint import read_fingerprint
from policy_patch.errors import AdvisoryError, ConfigError, VersionRangeError
from policy_patch.extra import import_extra
from policy_patch.files.documents import Fault, parse_json
from policy_patch.hub.names import REPO_ID, is_commit
from policy_patch.near_names import did_you_mean
from policy_patch.semver import SEMVER, VersionRange, parse_range, precedence

SCHEMA_VERSION = "1.7.5"
SEVERITIES = ("LOW", "MODERATE", "HIGH", "CRITICAL")  # as GitHub's advisories have them in `database_specific`
LARGEST_ADVISORY = 2**22  # bytes; our choice, as for a configuration with its fingerprint
_MOST_NESTED, _MOST_ENTRIES, _LONGEST_LINE = 24, 1000, 1000  # our choice
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OUR_KEYS = ("kind", "risk", "fingerprint", "fingerprint_sha256", "fixed_by", "sha256", "withdrawn")
_PURPOSE = "Reading advisories"


@dataclass(frozen=True)
class Fix:
    """A patch that fixes a flaw of a base.

    Args:
        patch (`str`):
            Its repository.
        versions ([`~policy_patch.semver.VersionRange`]):
            Versions that do.
    """

    patch: str
    versions: VersionRange


@dataclass(frozen=True)
class BaseFlaw:
    """A flaw of a base.

    Args:
        id (`str`):
            Repository of the base.
        commits (`frozenset[str]`):
            Commits that have the flaw.
        fingerprint (`dict`, *optional*):
            Fingerprint of the base that has it.
        hashes (`frozenset[str]`):
            SHA-256 of fingerprints that have it, by `fingerprint_sha256`.
        fixed_by (`tuple[Fix, ...]`):
            Patches that fix it; any one of them is enough.
        risk (`str`, *optional*):
            The risk that it is about.
    """

    id: str
    commits: frozenset[str] = frozenset()
    fingerprint: dict[str, Any] | None = field(default=None, repr=False)
    hashes: frozenset[str] = frozenset()
    fixed_by: tuple[Fix, ...] = ()
    risk: str | None = None


@dataclass(frozen=True)
class PatchFlaw:
    """A flaw of releases of a patch.

    Args:
        id (`str`):
            Repository of the patch.
        ranges (`tuple[tuple[tuple[str, str], ...], ...]`):
            For each range its events, an event being `introduced`, `fixed`, `last_affected` or `limit` and a version.
        versions (`frozenset[str]`):
            Versions and commits that have the flaw.
        sha256 (`frozenset[str]`):
            Hashes of their tensor files, which recognise a copy under any name.
        is_withdrawn (`bool`):
            Whether the maker has withdrawn these releases.
        risk (`str`, *optional*):
            The risk that it is about.
    """

    id: str
    ranges: tuple[tuple[tuple[str, str], ...], ...] = ()
    versions: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()
    is_withdrawn: bool = False
    risk: str | None = None

    def affects(self, version: str, *, commit: str | None = None, sha256: str | None = None) -> bool:
        """Return whether a release has the flaw. Each of version, commit and hash is enough."""
        if version.partition("+")[0] in {one.partition("+")[0] for one in self.versions}:
            return True
        if commit in self.versions or sha256 in self.sha256:
            return True
        return any(_is_in(version, events) for events in self.ranges)

    def fixed_in(self, version: str) -> str | None:
        """Return the oldest version newer than this one in which the flaw is fixed; None if none is known."""
        fixed = [bound for events in self.ranges for kind, bound in events if kind == "fixed"]
        newer = [bound for bound in fixed if precedence(bound) > precedence(version)]
        return min((one for one in newer if not self.affects(one)), key=precedence, default=None)

    def is_fixed_by(self, version: str) -> bool:
        """Return whether a release comes after one with the flaw, and does not have it."""
        fixed = [bound for events in self.ranges for kind, bound in events if kind == "fixed"]
        return any(precedence(version) >= precedence(bound) for bound in fixed) and not self.affects(version)


def _is_in(version: str, events: Sequence[tuple[str, str]]) -> bool:
    """Return whether a version is in a range, by the algorithm of the OSV specification ("Evaluation")."""
    at = precedence(version)
    limits = [bound for kind, bound in events if kind == "limit"]
    if limits and not any(bound == "*" or at < precedence(bound) for bound in limits):
        return False
    found = False
    ordered = [(_place(bound), kind) for kind, bound in events if kind != "limit"]
    for place, kind in sorted(ordered, key=lambda event: (event[0], event[1] != "introduced")):
        if kind == "introduced" and at >= place:
            found = True
        elif (kind == "fixed" and at >= place) or (kind == "last_affected" and at > place):
            found = False
    return found


def _place(bound: str) -> tuple[Any, ...]:
    return precedence("0.0.0-0") if bound == "0" else precedence(bound)


@dataclass(frozen=True)
class Advisory:
    """One advisory.

    Args:
        id (`str`):
            Its id; those of databases that OSV does not list begin with `x_`.
        modified (`str`):
            Time of the last change.
        summary (`str`):
            One line.
        flaws (`tuple[BaseFlaw | PatchFlaw, ...]`):
            What is affected; entries about packages that are not on the Hugging Face Hub are left out.
        severity (`str`, *optional*):
            `LOW`, `MODERATE`, `HIGH` or `CRITICAL`, or a CVSS vector.
        withdrawn (`str`, *optional*):
            Time at which the advisory itself was taken back.
        source (`str`):
            Where it was read.
    """

    id: str
    modified: str
    summary: str
    flaws: tuple[BaseFlaw | PatchFlaw, ...]
    severity: str | None = None
    withdrawn: str | None = None
    source: str = "it"


def advised_against(
    advisories: Sequence[Advisory], patch_id: str, version: str, sha256: str | None = None
) -> Advisory | None:
    """Return the first advisory about a release of a patch; None if there is none."""
    for advisory in advisories:
        for flaw in advisory.flaws:
            if advisory.withdrawn is None and isinstance(flaw, PatchFlaw):
                if flaw.id.lower() == patch_id.lower() and flaw.affects(version):
                    return advisory
                if sha256 is not None and sha256 in flaw.sha256:
                    return advisory
    return None


def read_advisory(text: str, source: str) -> Advisory:
    """Read one advisory.

    Args:
        text (`str`):
            JSON of the OSV schema, at most 4 MiB.
        source (`str`):
            Where it comes from, for error messages.

    Raises:
        AdvisoryError: it is no advisory of the schema, or does not say which models are affected.
        MissingExtraError: `jsonschema` or `packageurl-python` is not installed.
    """
    if len(text) > LARGEST_ADVISORY:
        raise AdvisoryError(f"{source} has more than {LARGEST_ADVISORY:,} characters; it was not read.")
    try:
        values = parse_json(text, most_nested=_MOST_NESTED, allow_nan=False)
    except ValueError as error:
        raise AdvisoryError(
            f"{source} is no valid JSON ({error.at('it') if isinstance(error, Fault) else error}). Get it again, or "
            "remove it; nothing was audited."
        ) from error
    entries = values.get("affected") if isinstance(values, dict) else None
    if isinstance(entries, list) and len(entries) > _MOST_ENTRIES:
        raise AdvisoryError(f"{source} names {len(entries):,} affected packages; expected at most {_MOST_ENTRIES:,}.")
    _check_schema(values, source)
    return _Reader(source, values["id"]).advisory(values)


def _check_schema(values: Any, source: str) -> None:
    found = list(_schema().iter_errors(values))
    if not found:
        return
    best = import_extra("jsonschema.exceptions", "jsonschema", "cli", _PURPOSE).best_match(found)
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in best.absolute_path).lstrip(".")
    hint = ""
    if where == "id":
        hint = " The id of a database that OSV does not list begins with `x_`, such as `x_ACME-2026-0001`."
    elif where.endswith("ecosystem"):
        hint = " For a model on the Hub, write `GIT` (OSV has no name for the Hub) and give its `purl`."
    raise AdvisoryError(
        f"{source} is no advisory of the OSV schema {SCHEMA_VERSION}"
        + (f", at `{where}`" if where else "")
        + f": {best.message[:300]}.{hint} Nothing was audited."
    )


@cache
def _schema() -> Any:
    """Return the validator of the official schema (github.com/ossf/osv-schema at 51b8156, Apache-2.0)."""
    jsonschema = import_extra("jsonschema", "jsonschema", "cli", _PURPOSE)
    schema = parse_json(Path(__file__).with_name("osv_schema.json").read_text(encoding="utf-8"), most_nested=64)
    return jsonschema.Draft202012Validator(schema)


class _Reader:
    """Reads what the schema leaves open."""

    def __init__(self, source: str, advisory_id: str) -> None:
        self._source = f"{source} ({advisory_id[:80]})"

    def refuse(self, where: str, problem: str) -> Any:
        raise AdvisoryError(
            f"{self._source}, `{where}`: {problem}. Correct it, or ask its author; nothing was audited."
        )

    def advisory(self, values: dict[str, Any]) -> Advisory:
        """Return the advisory."""
        for key in ("id", "summary"):
            text = values.get(key, "-")
            if not text.isprintable() or len(text) > _LONGEST_LINE:  # it is printed to a terminal
                self.refuse(key, f"expected one line of at most {_LONGEST_LINE:,} printable characters")
        entries = values.get("affected") or []
        flaws = [flaw for place, entry in enumerate(entries) if (flaw := self._flaw(entry, f"affected[{place}]"))]
        severity = (values.get("database_specific") or {}).get("severity")
        if severity is not None and severity not in SEVERITIES:
            self.refuse("database_specific.severity", f"it is {severity!r}; expected one of {', '.join(SEVERITIES)}")
        for key in ("modified", "published", "withdrawn"):
            try:
                datetime.fromisoformat(values.get(key, values["modified"]))
            except ValueError:
                self.refuse(key, f"{values[key][:80]!r} is no time like 2026-01-31T12:00:00Z")
        scores = [one["score"] for one in values.get("severity") or []]
        return Advisory(
            values["id"], values["modified"], values.get("summary") or values["id"], tuple(flaws),
            severity or next(iter(scores), None), values.get("withdrawn"), self._source,
        )  # fmt: skip

    def _flaw(self, entry: dict[str, Any], where: str) -> BaseFlaw | PatchFlaw | None:
        purl = entry.get("package", {}).get("purl")
        ours = entry.get("database_specific", {}).get("policy_patch")
        if purl is None and ours is None:
            return None  # about a package elsewhere
        if purl is None:
            self.refuse(f"{where}.package", "`purl` is missing; expected one like `pkg:huggingface/org/model`")
        kind, name, at = self._purl(purl, f"{where}.package.purl")
        if kind != "huggingface":
            return None
        where = f"{where}.database_specific.policy_patch"
        if not isinstance(ours, dict) or ours.get("kind") not in ("base", "patch"):
            self.refuse(where, "expected an object with `kind`: `base` or `patch`")
        for key in ours:
            if key not in _OUR_KEYS:
                self.refuse(f"{where}.{key}", f"an unknown key. {did_you_mean(key, _OUR_KEYS)}".rstrip(" ."))
        risk = ours.get("risk")
        if risk is not None and not isinstance(risk, str):
            self.refuse(f"{where}.risk", "expected a text")
        versions = frozenset(entry.get("versions", ())) | ({at} if at else frozenset())
        read = self._base if ours["kind"] == "base" else self._patch
        return read(name, versions, entry.get("ranges", []), ours, where)

    def _purl(self, text: str, where: str) -> tuple[str, str, str | None]:
        package_url = import_extra("packageurl", "packageurl-python", "cli", _PURPOSE).PackageURL
        try:
            purl = package_url.from_string(text[:1000])
        except ValueError as error:
            self.refuse(where, f"`{text[:80]}` is no package URL ({error})")
        name = "/".join(filter(None, [purl.namespace, purl.name]))
        if purl.type == "huggingface" and (not REPO_ID.fullmatch(name) or ".." in name):
            self.refuse(where, f"`{text[:80]}` names no repository; expected one like `pkg:huggingface/org/model`")
        return purl.type, name, purl.version

    def _base(
        self, name: str, versions: frozenset[str], ranges: list[Any], ours: dict[str, Any], where: str
    ) -> BaseFlaw:
        if ranges and any(one["type"] != "GIT" for one in ranges):
            self.refuse(where, "a base has no versions, so no ranges of them; give commits in `versions`")
        if wrong := [one for one in versions if not is_commit(one)]:
            self.refuse(where, f"`{wrong[0][:80]}` in `versions` is no commit of 40 hexadecimal digits (tags move)")
        fingerprint, hashes = ours.get("fingerprint"), self._hashes(ours, "fingerprint_sha256", where)
        if fingerprint is not None:
            try:
                read_fingerprint(fingerprint, self._source)
            except ConfigError as error:
                self.refuse(f"{where}.fingerprint", str(error).rstrip("."))
            hashes |= {fingerprint_sha256(fingerprint)}
        if not hashes and not versions:
            self.refuse(where, "expected `fingerprint`, `fingerprint_sha256` or commits in `versions`: a name alone "
                        "says nothing about a base")  # fmt: skip
        self._check_absent(ours, ("sha256", "withdrawn"), "patch", where)
        return BaseFlaw(
            name, versions, fingerprint, hashes, self._fixes(ours.get("fixed_by", []), where), ours.get("risk")
        )

    def _fixes(self, values: Any, where: str) -> tuple[Fix, ...]:
        where = f"{where}.fixed_by"
        if not isinstance(values, list):
            self.refuse(where, 'expected a list of objects like {"patch": "org/tox-patch", "versions": ">=1.1.1"}')
        found = []
        for one in values:
            if not isinstance(one, dict) or set(one) != {"patch", "versions"}:
                self.refuse(where, 'expected objects like {"patch": "org/tox-patch", "versions": ">=1.1.1"}')
            patch, versions = one["patch"], one["versions"]
            if not isinstance(patch, str) or not REPO_ID.fullmatch(patch) or ".." in patch:
                self.refuse(where, f"{str(patch)[:80]!r} is no repository like `org/tox-patch`")
            try:
                found.append(Fix(patch, parse_range(versions if isinstance(versions, str) else str(versions))))
            except VersionRangeError as error:
                self.refuse(where, str(error).rstrip("."))
        return tuple(found)

    def _patch(
        self, name: str, versions: frozenset[str], ranges: list[Any], ours: dict[str, Any], where: str
    ) -> PatchFlaw:
        if wrong := [one for one in versions if not SEMVER.fullmatch(one) and not is_commit(one)]:
            self.refuse(where, f"`{wrong[0][:80]}` in `versions` is neither a semantic version nor a commit")
        events = tuple(self._events(one, where) for one in ranges if one["type"] != "GIT")
        hashes, withdrawn = self._hashes(ours, "sha256", where), ours.get("withdrawn", False)
        if not events and not versions and not hashes:
            self.refuse(where, "expected a range of type SEMVER, `versions`, or `sha256` of tensor files")
        if type(withdrawn) is not bool:
            self.refuse(f"{where}.withdrawn", "expected true or false")
        self._check_absent(ours, ("fingerprint", "fingerprint_sha256", "fixed_by"), "base", where)
        return PatchFlaw(name, events, versions, hashes, withdrawn, ours.get("risk"))

    def _events(self, values: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
        if values["type"] != "SEMVER":
            self.refuse(where, f"a range of type {values['type']}; patches have semantic versions, type SEMVER")
        found = []
        for event in values["events"]:
            if len(event) != 1:
                self.refuse(where, f"an event with {len(event)} keys; expected one")
            ((kind, version),) = event.items()
            is_special = (kind, version) in (("introduced", "0"), ("limit", "*"))
            if not is_special and (len(version) > 200 or not SEMVER.fullmatch(version)):
                self.refuse(where, f"`{kind}`: `{version[:80]}` is no semantic version (without `v`)")
            found.append((kind, version))
        return tuple(found)

    def _hashes(self, ours: dict[str, Any], key: str, where: str) -> frozenset[str]:
        values = ours.get(key, [])
        is_list = isinstance(values, list) and len(values) <= 10_000
        if not is_list or not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in values):
            self.refuse(f"{where}.{key}", "expected a list of SHA-256 hashes in hexadecimal")
        return frozenset(values)

    def _check_absent(self, ours: dict[str, Any], keys: Sequence[str], kind: str, where: str) -> None:
        for key in keys:
            if key in ours:
                self.refuse(f"{where}.{key}", f"only a flaw of kind `{kind}` has it")

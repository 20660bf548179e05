"""Compares a deployment with advisories: which flaws are open, which are fixed and by what, and what to install.

A base is recognised by its fingerprint, a patch by id, version and hash. Where that is not possible the finding says so
and counts as open. `audited.py` finds out what a target consists of.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policy_patch.base.identity import base_differences
from policy_patch.hub.fetch import HubOptions
from policy_patch.release.advisories import Advisory, BaseFlaw, Fix, PatchFlaw
from policy_patch.release.advisory_files import load_advisories
from policy_patch.release.audited import Audited, AuditedBase, AuditedPatch, audited


@dataclass(frozen=True)
class Finding:
    """What one advisory means for a target.

    Args:
        advisory (`str`):
            Its id.
        status (`str`):
            `"open"`: the flaw is there; `"fixed"`: it was, and a patch of the stack fixes it; `"unclear"`: it cannot be
            told, which counts as open.
        subject (`str`):
            The base or the patch.
        reason (`str`):
            Why, in words.
        summary (`str`):
            What the advisory is about.
        severity (`str`, *optional*):
            As in the advisory.
        fixed_by (`str`, *optional*):
            The patch and version that fixes it.
        install (`str`, *optional*):
            A command that installs a fix.
    """

    advisory: str
    status: str
    subject: str
    reason: str
    summary: str
    severity: str | None = None
    fixed_by: str | None = None
    install: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether something has to be done."""
        return self.status != "fixed"


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Args:
        target (`str`):
            What was audited.
        findings (`tuple[Finding, ...]`):
            What concerns it; those that are open come first.
        checked (`int`):
            Number of advisories that were compared.
        taken_back (`tuple[str, ...]`):
            Ids of advisories that their authors have withdrawn; they count no more.
    """

    target: str
    findings: tuple[Finding, ...]
    checked: int
    taken_back: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is open."""
        return not any(finding.is_open for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 if nothing is open, else 1."""
        return 0 if self.is_clean else 1

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "target": self.target,
            "open": sum(finding.is_open for finding in self.findings),
            "checked": self.checked,
            "withdrawn_advisories": list(self.taken_back),
            "findings": [vars(finding) for finding in self.findings],
        }


def audit(
    target: Any, advisories: str | os.PathLike | Sequence[Advisory], *, options: HubOptions | None = None
) -> AuditReport:
    """Compare a deployment with advisories.

    Args:
        target (`str`, `os.PathLike`, `Lock`, `PolicyPatchModel`, `PreTrainedModel` or a list of patches):
            A lock file; a patch, by folder or Hub id; a list of them, which is a stack; a base, by folder or Hub id,
            which is loaded for its fingerprint; or a loaded model, with its active patches.
        advisories (`str`, `os.PathLike` or `Sequence[Advisory]`):
            A file, a folder or a dataset on the Hub, as in [`~policy_patch.release.advisory_files.load_advisories`].
        options ([`HubOptions`], *optional*):
            Token, cache and so on.

    Returns:
        [`AuditReport`]: its `exit_code` is 1 if something is open.

    Raises:
        AdvisoryError: an advisory is damaged; then nothing is audited.
        LockError, PatchNotFoundError, ModelLoadError, HubError: the target cannot be read.
    """
    source = os.fspath(advisories) if isinstance(advisories, str | os.PathLike) else None
    if source is not None:
        advisories = load_advisories(source, options)
    found = audited(target, options)
    valid = [advisory for advisory in advisories if advisory.withdrawn is None]
    comparing = _Comparing(found, valid, source)
    findings = [
        finding
        for advisory in valid
        for flaw in advisory.flaws
        if (finding := comparing.finding(advisory, flaw)) is not None
    ]
    findings.sort(key=lambda finding: (not finding.is_open, finding.advisory))
    withdrawn = tuple(advisory.id for advisory in advisories if advisory.withdrawn is not None)
    return AuditReport(found.name, tuple(findings), len(valid), withdrawn)


class _Comparing:
    """Compares one deployment with all advisories. A release that one of them names fixes nothing.

    Args:
        found ([`Audited`]):
            The deployment.
        advisories (`Sequence[Advisory]`):
            Those that count.
        source (`str`, *optional*):
            Where they come from, for the commands that install a fix.
    """

    def __init__(self, found: Audited, advisories: Sequence[Advisory], source: str | None) -> None:
        self._found = found
        self._of_patches = [
            (advisory, flaw) for advisory in advisories for flaw in advisory.flaws if isinstance(flaw, PatchFlaw)
        ]
        self._advisories = [] if source is None else ["--advisories", source]

    def finding(self, advisory: Advisory, flaw: BaseFlaw | PatchFlaw) -> Finding | None:
        """Return what one flaw means for the deployment; None if it does not concern it."""
        if isinstance(flaw, BaseFlaw):
            return None if self._found.base is None else self._of_base(advisory, flaw, self._found.base)
        each = [
            one
            for patch in self._found.patches
            for member in (patch, *patch.parts)
            if (one := self._of_patch(advisory, flaw, member, patch))
        ]
        return min(each, key=lambda finding: finding.status == "fixed", default=None)

    def _of_base(self, advisory: Advisory, flaw: BaseFlaw, base: AuditedBase) -> Finding | None:
        is_affected, why = _has_flaw(flaw, base)
        if is_affected is False:
            return None
        known = {"subject": f"base {base.name}", "summary": advisory.summary, "severity": advisory.severity}
        doubts: list[Finding] = []
        for patch in self._found.patches:
            for member in (patch, *patch.parts):
                if not _is_a_fix(member, flaw):
                    continue
                against = self._against(member)
                if against is None and member is patch:
                    return Finding(
                        advisory.id, "fixed", reason=f"{why}; {member.source} fixes it", fixed_by=member.source, **known
                    )
                doubts.append(Finding(advisory.id, **self._doubt(flaw, why, member, patch, against), **known))
        if doubts:
            return min(doubts, key=lambda finding: finding.status == "open")
        fixes = " or ".join(f"{fix.patch} {fix.versions.text}" for fix in flaw.fixed_by)
        is_none = "fixed by {}, which is not in the stack" if fixes else "no patch is known to fix it"
        status = "unclear" if is_affected is None else "open"
        return Finding(
            advisory.id, status, reason=f"{why}; {is_none.format(fixes)}", install=self._install(flaw.fixed_by), **known
        )

    def _doubt(
        self, flaw: BaseFlaw, why: str, member: AuditedPatch, patch: AuditedPatch,
        against: tuple[Advisory, PatchFlaw] | None,
    ) -> dict[str, str | None]:  # fmt: skip
        """Return status, reason and command for a patch that would fix a flaw of the base, if it could be relied on."""
        if against is None:
            reason = f"{why}; {member.source}, a part of {patch.source}, fixes it alone; measure the composed patch"
            return {"status": "unclear", "reason": reason, "install": None}
        advisory, named = against
        is_bad = named.is_withdrawn or (named.risk is not None and named.risk == flaw.risk)
        counts = "does not count" if is_bad else "may not count"
        reason = f"{why}; {member.source} {counts} as its fix, because {advisory.id} names that release"
        install = self._replace(named, patch, self._fixed_in(named, member)[0]) if member is patch else None
        return {"status": "open" if is_bad else "unclear", "reason": reason, "install": install}

    def _of_patch(
        self, advisory: Advisory, flaw: PatchFlaw, patch: AuditedPatch, whole: AuditedPatch
    ) -> Finding | None:
        """Return what a flaw means for a patch of the stack, or for a part of the composed patch `whole`."""
        part = "" if patch is whole else f", a part of {whole.source}"
        known = {
            "subject": f"patch {patch.source}{part}", "summary": advisory.summary, "severity": advisory.severity,
        }  # fmt: skip
        by_hash = patch.sha256 in flaw.sha256
        if not patch.is_named(flaw.id) and not by_hash:
            if patch.id is not None or flaw.sha256 or patch.name.lower() != flaw.id.rpartition("/")[2].lower():
                return None
            return Finding(
                advisory.id, "unclear",
                reason=f"it may be a copy of {flaw.id}, and the advisory has no hash to compare", **known,
            )  # fmt: skip
        if not by_hash and not flaw.affects(patch.version, commit=patch.commit, sha256=patch.sha256):
            if flaw.is_fixed_by(patch.version):
                return Finding(
                    advisory.id, "fixed", reason="this version comes after the flaw", fixed_by=patch.source, **known
                )
            return None
        is_copy = by_hash and not patch.is_named(flaw.id)
        reason = "this is a copy of a release that has it" if is_copy else "this release has it"
        reason += "; its maker has withdrawn it" if flaw.is_withdrawn else ""
        fixed, in_words = self._fixed_in(flaw, patch)
        if part:
            again = f"compose {whole.name} again from {flaw.id} {fixed}" if fixed else f"take {whole.name} out of use"
            return Finding(advisory.id, "open", reason=f"{reason}; {in_words}: {again}", install=None, **known)
        return Finding(
            advisory.id, "open", reason=f"{reason}; {in_words}", install=self._replace(flaw, patch, fixed), **known
        )

    def _against(self, patch: AuditedPatch) -> tuple[Advisory, PatchFlaw] | None:
        """Return the advisory and the flaw that speak against a release, one by which it is withdrawn first."""
        found = [
            (advisory, flaw)
            for advisory, flaw in self._of_patches
            if patch.sha256 in flaw.sha256
            or (patch.is_named(flaw.id) and flaw.affects(patch.version, commit=patch.commit, sha256=patch.sha256))
        ]
        return min(found, key=lambda one: not one[1].is_withdrawn, default=None)

    def _fixed_in(self, flaw: PatchFlaw, patch: AuditedPatch) -> tuple[str | None, str]:
        """Return the oldest newer version without this flaw that no advisory names, and it in words."""
        first = flaw.fixed_in(patch.version)
        good = self._good_version(flaw.id, first)
        if first is None:
            return None, "no later version is known to fix it"
        if good is None:
            return None, f"{first} fixes it and has a flaw of its own; no good later version is known"
        return good, f"fixed in {good}"

    def _good_version(self, patch_id: str, version: str | None) -> str | None:
        """Return a version, or the next one after it that no advisory names; None if none is known."""
        while version is not None:
            named = [
                flaw for _, flaw in self._of_patches
                if flaw.id.lower() == patch_id.lower() and flaw.affects(version)
            ]  # fmt: skip
            if not named:
                return version
            version = named[0].fixed_in(version)  # always a newer one, so this ends
        return None

    # Commands

    def _install(self, fixes: Sequence[Fix]) -> str | None:
        """Return a command that adds a fix for a base to the deployment; None if no patch is known to fix it."""
        lock = self._found.lock
        for fix in fixes:
            for patch in self._found.patches:
                if patch.is_named(fix.patch) and lock is not None:
                    return self._resolving("upgrade", "--lock", lock, "--to", f"{patch.name}={fix.versions.text}")
        for fix in fixes:
            if lock is not None:
                specs = (*self._found.specs, f"{fix.patch}@{fix.versions.text}")
                return self._resolving("lock", *specs, "--lock", lock)
            oldest = _oldest(fix)
            good = self._good_version(fix.patch, oldest)
            if oldest is None or (good is not None and fix.versions.allows(good, pre_releases=True)):
                return _pull(fix.patch, good)
        return None

    def _replace(self, flaw: PatchFlaw, patch: AuditedPatch, fixed: str | None) -> str | None:
        """Return a command that replaces a release with a flaw; None if no other release is known to be good."""
        found = self._found
        if found.lock is None:
            return None if fixed is None else _pull(flaw.id, fixed)
        if fixed is not None and patch.id is not None:
            if patch.asked is not None and patch.may_become(fixed):
                return self._resolving("upgrade", patch.name, "--lock", found.lock)
            return self._resolving("upgrade", "--lock", found.lock, "--to", f"{patch.name}=^{fixed}")
        is_better = found.previous and all(self._against(one) is None for one in found.previous)
        return _command("rollback", "--lock", found.lock) if is_better else None

    def _resolving(self, *words: str) -> str:
        """Return a command that looks for versions, and passes over those that these advisories name."""
        return _command(*words, *self._advisories)


def _is_a_fix(patch: AuditedPatch, flaw: BaseFlaw) -> bool:
    return any(
        patch.is_named(fix.patch) and fix.versions.allows(patch.version, pre_releases=True) for fix in flaw.fixed_by
    )


def _has_flaw(flaw: BaseFlaw, base: AuditedBase) -> tuple[bool | None, str]:
    """Return whether a base has a flaw, None if it cannot be told, and why."""
    if base.commit is not None and base.commit in flaw.commits and base.is_named(flaw.id):
        return True, f"the commit {base.commit[:12]} has it"
    if flaw.hashes & base.hashes:
        return True, "the fingerprint is that of the base that has it"
    if flaw.fingerprint is not None:
        if not base.fingerprints:
            return None, f"{_UNTOLD}: its fingerprint is not known here"
        told = [base_differences(flaw.fingerprint, one, base.name) for one in base.fingerprints]
        if [] in told:
            return True, "the fingerprint is that of the base that has it"
        return (False, "") if all(told) else (None, f"{_UNTOLD}: the fingerprints have no weight in common")
    # Hashes of one base differ by precision, so another hash proves nothing; then the name decides.
    if not base.is_named(flaw.id) or (not flaw.hashes and base.commit is not None):
        return False, ""
    return None, f"{_UNTOLD}: the advisory has no fingerprint to compare"


_UNTOLD = "it cannot be told whether this is the base that has it"


def _oldest(fix: Fix) -> str | None:
    return next((version for operator, version in fix.versions.bounds if operator in ("=", ">=")), None)


def _pull(patch_id: str, version: str | None) -> str:
    return _command("pull", f"{patch_id}@v{version}") if version else _command("info", patch_id)


def _command(*words: str) -> str:
    return shlex.join(["policy-patch", *words])

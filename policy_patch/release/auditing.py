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
    if isinstance(advisories, str | os.PathLike):
        advisories = load_advisories(advisories, options)
    found = audited(target, options)
    valid = [advisory for advisory in advisories if advisory.withdrawn is None]
    findings = [
        finding
        for advisory in valid
        for flaw in advisory.flaws
        if (finding := _finding(advisory, flaw, found)) is not None
    ]
    findings.sort(key=lambda finding: (not finding.is_open, finding.advisory))
    withdrawn = tuple(advisory.id for advisory in advisories if advisory.withdrawn is not None)
    return AuditReport(found.name, tuple(findings), len(valid), withdrawn)


def _finding(advisory: Advisory, flaw: BaseFlaw | PatchFlaw, found: Audited) -> Finding | None:
    if isinstance(flaw, BaseFlaw):
        return None if found.base is None else _of_base(advisory, flaw, found, found.base)
    each = [one for patch in found.patches if (one := _of_patch(advisory, flaw, found, patch))]
    return min(each, key=lambda finding: finding.status == "fixed", default=None)


def _of_base(advisory: Advisory, flaw: BaseFlaw, found: Audited, base: AuditedBase) -> Finding | None:
    is_affected, why = _has_flaw(flaw, base)
    if is_affected is False:
        return None
    known = {"subject": f"base {base.name}", "summary": advisory.summary, "severity": advisory.severity}
    for patch in found.patches:
        for fix in flaw.fixed_by:
            if patch.is_named(fix.patch) and fix.versions.allows(patch.version, pre_releases=True):
                by = f"{patch.id or patch.name}@v{patch.version}"
                return Finding(advisory.id, "fixed", reason=f"{why}; {by} fixes it", fixed_by=by, **known)
    fixes = " or ".join(f"{fix.patch} {fix.versions.text}" for fix in flaw.fixed_by)
    reason = f"{why}; " + (f"fixed by {fixes}, which is not in the stack" if fixes else "no patch is known to fix it")
    status = "unclear" if is_affected is None else "open"
    return Finding(advisory.id, status, reason=reason, install=_install(found, flaw.fixed_by), **known)


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


def _of_patch(advisory: Advisory, flaw: PatchFlaw, found: Audited, patch: AuditedPatch) -> Finding | None:
    known = {
        "subject": f"patch {patch.id or patch.name}@v{patch.version}",
        "summary": advisory.summary, "severity": advisory.severity,
    }  # fmt: skip
    by_hash = patch.sha256 in flaw.sha256
    if not patch.is_named(flaw.id) and not by_hash:
        if patch.id is not None or flaw.sha256 or patch.name.lower() != flaw.id.rpartition("/")[2].lower():
            return None
        return Finding(
            advisory.id, "unclear", reason=f"it may be a copy of {flaw.id}, and the advisory has no hash to compare",
            **known,
        )  # fmt: skip
    if not by_hash and not flaw.affects(patch.version, commit=patch.commit, sha256=patch.sha256):
        if flaw.is_fixed_by(patch.version):
            by = f"{patch.id}@v{patch.version}"
            return Finding(advisory.id, "fixed", reason="this version comes after the flaw", fixed_by=by, **known)
        return None
    reason = (
        "this is a copy of a release that has it" if by_hash and not patch.is_named(flaw.id) else "this release has it"
    )
    fixed = flaw.fixed_in(patch.version)
    reason += "; its maker has withdrawn it" if flaw.is_withdrawn else ""
    reason += f"; fixed in {fixed}" if fixed else "; no later version is known to fix it"
    return Finding(advisory.id, "open", reason=reason, install=_replace(found, flaw, patch, fixed), **known)


def _install(found: Audited, fixes: Sequence[Fix]) -> str | None:
    """Return a command that adds a fix for a base to the deployment; None if no patch fixes it."""
    if not fixes:
        return None
    fix = fixes[0]
    for patch in found.patches:
        if patch.is_named(fix.patch) and found.lock is not None:
            return _command("upgrade", "--lock", found.lock, "--to", f"{patch.name}={fix.versions.text}")
    if found.lock is not None:
        return _command("lock", *found.specs, f"{fix.patch}@{fix.versions.text}", "--lock", found.lock)
    return _pull(fix.patch, _oldest(fix))


def _replace(found: Audited, flaw: PatchFlaw, patch: AuditedPatch, fixed: str | None) -> str | None:
    """Return a command that replaces a release with a flaw; None if there is neither a newer nor an earlier one."""
    if found.lock is None:
        return None if fixed is None else _pull(flaw.id, fixed)
    if fixed is not None and patch.id is not None:
        if patch.asked is not None and patch.may_become(fixed):
            return _command("upgrade", patch.name, "--lock", found.lock)
        return _command("upgrade", "--lock", found.lock, "--to", f"{patch.name}=^{fixed}")
    return _command("rollback", "--lock", found.lock) if found.has_previous else None


def _oldest(fix: Fix) -> str | None:
    return next((version for operator, version in fix.versions.bounds if operator in ("=", ">=")), None)


def _pull(patch_id: str, version: str | None) -> str:
    return _command("pull", f"{patch_id}@v{version}") if version else _command("info", patch_id)


def _command(*words: str) -> str:
    return shlex.join(["policy-patch", *words])

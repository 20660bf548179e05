"""Makes a new advisory about a patch release, or about the base of a patch, for its vendor to complete and publish.

What an advisory says is read in `advisories.py`; nothing is published here.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import AdvisoryError
from policy_patch.hub.fetch import HubOptions, PatchLocation, locate_patch
from policy_patch.hub.names import is_commit, split_id
from policy_patch.patch.folder import read_patch_folder
from policy_patch.privacy.local_names import is_local
from policy_patch.release.advisories import SCHEMA_VERSION, read_advisory


def new_advisory(
    advisory_id: str, patch: str | os.PathLike, *, flaw: str, summary: str, details: str = "",
    patch_id: str | None = None, severity: str | None = None, fixed: str | None = None, fixed_by: Sequence[str] = (),
    withdrawn: bool = False, options: HubOptions | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return an advisory as plain values, ready to be written as JSON.

    Args:
        advisory_id (`str`):
            Its id. Databases that OSV does not list begin theirs with `x_`: `"x_ACME-2026-0001"`.
        patch (`str` or `os.PathLike`):
            A folder or a Hub id, maybe with a version: the release that has the flaw or, for a flaw of a base, any
            patch that was made for the base; it holds the fingerprint.
        flaw (`"patch"` or `"base"`):
            What has the flaw: this release of the patch, or the patch's base.
        summary (`str`):
            One line that says what goes wrong, and for whom.
        details (`str`, *optional*):
            Markdown.
        patch_id (`str`, *optional*):
            Repository of the patch, where `patch` is a folder.
        severity (`str`, *optional*):
            `LOW`, `MODERATE`, `HIGH` or `CRITICAL`.
        fixed (`str`, *optional*):
            For a flaw of a patch: the first version without it.
        fixed_by (`Sequence[str]`, *optional*):
            For a flaw of a base: patches that fix it, with versions: `"org/tox-patch@>=1.1.1"`.
        withdrawn (`bool`, *optional*, defaults to `False`):
            For a flaw of a patch: whether this release is withdrawn.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.

    Raises:
        AdvisoryError: something is missing or does not belong to this kind of flaw.
        HubError, PatchNotFoundError, PatchFileError, ConfigError: the patch cannot be read.
    """
    if flaw not in ("patch", "base"):
        raise AdvisoryError(f"`flaw={flaw!r}`: expected `patch` (this release) or `base` (the base of the patch).")
    if flaw == "patch" and fixed_by:
        raise AdvisoryError("`fixed_by` names patches that fix a base. A patch is fixed by its own version: `fixed`.")
    if flaw == "base" and (fixed or withdrawn):
        raise AdvisoryError(
            "`fixed` and `withdrawn` are for a flaw of a patch. A base is fixed by patches: `fixed_by`."
        )
    location = locate_patch(patch, options)
    config, _ = read_patch_folder(location.folder)
    is_patch = flaw == "patch"
    affected = _patch(config, location, patch_id, fixed, withdrawn) if is_patch else _base(config, fixed_by)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {
        "schema_version": SCHEMA_VERSION,
        "id": advisory_id,
        "modified": now,
        "published": now,
        "summary": summary,
        **({"details": details} if details else {}),
        "affected": [affected],
        **({"database_specific": {"severity": severity}} if severity else {}),
    }
    read_advisory(json.dumps(values), "The new advisory")
    return values


def _package(name: str) -> dict[str, str]:
    # OSV has no ecosystem for the Hub; `GIT` is that of other repositories. Its purl has no version in it.
    return {"ecosystem": "GIT", "name": f"https://huggingface.co/{name}", "purl": f"pkg:huggingface/{name}"}


def _patch(
    config: PolicyPatchConfig, location: PatchLocation, patch_id: str | None, fixed: str | None, withdrawn: bool
) -> dict[str, Any]:
    name = patch_id or location.repo_id
    if name is None:
        raise AdvisoryError(
            f"`{location.folder}` is a folder, so the repository of the patch is not known. Give it: `--patch_id "
            "org/tox-patch`."
        )
    events = [
        {"introduced": config.patch_version},
        {"fixed": fixed} if fixed else {"last_affected": config.patch_version},
    ]
    ours = {"kind": "patch", "risk": config.risk, "sha256": [config.sha256], "withdrawn": withdrawn}
    return {
        "package": _package(name),
        "ranges": [{"type": "SEMVER", "events": events}],
        "versions": [config.patch_version],
        "database_specific": {"policy_patch": {key: value for key, value in ours.items() if value is not None}},
    }


def _base(config: PolicyPatchConfig, fixed_by: Sequence[str]) -> dict[str, Any]:
    name = config.base_model_name_or_path
    if not name or is_local(name) or "/" not in name:
        raise AdvisoryError(
            f"The patch names the base {name!r}, which is no repository on the Hub, so nobody else would know it. Give "
            "a published patch, or one that was made with the Hub id of the base."
        )
    fixes = []
    for spec in fixed_by:
        patch, at, versions = spec.partition("@")
        if not at:
            raise AdvisoryError(f"`fixed_by`: `{spec}` has no versions; expected one like `org/tox-patch@>=1.1.1`.")
        fixes.append({"patch": patch, "versions": versions})
    commit = config.base_model_revision
    ours = {"kind": "base", "risk": config.risk, "fingerprint": config.base_fingerprint, "fixed_by": fixes}
    return {
        "package": _package(split_id(name)[0]),
        **({"versions": [commit]} if commit and is_commit(commit) else {}),
        "database_specific": {"policy_patch": {key: value for key, value in ours.items() if value is not None}},
    }

"""Verdicts of scans that a policy has asked for: what they allow, and where they are kept, by hash of patch or stack.

The scan itself needs the base and stands far above (`policy_patch.release.scan`). Who loads vectors without a base, as
the gateway does, asks here whether they were cleared before.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import HostilePatchError, PatchSaveError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.trust.policy_file import PatchPolicy

Scanned = PolicyPatchConfig | Sequence[PolicyPatchConfig]  # of one patch, or of a stack in its order
SCAN_VERSION = 1  # raised when texts or limits of the scan change, so that earlier verdicts no longer count
HOSTILE, SUSPICIOUS, NOTHING = "hostile", "suspicious", "nothing found"
_LARGEST_VERDICT = 2**20  # bytes


def check_verdict(found: Mapping[str, Any], source: str, policy: PatchPolicy) -> None:
    """Raise unless a policy allows a patch with this verdict to be loaded.

    Args:
        found (`Mapping[str, Any]`):
            A scan as plain values: `verdict` and `reasons`.
        source (`str`):
            The patch, for the error.
        policy ([`PatchPolicy`]):
            The policy that requires the scan.

    Raises:
        HostilePatchError: the patch is hostile, or it is suspicious and the policy does not allow that.
    """
    verdict = found["verdict"]
    if verdict == NOTHING or (verdict == SUSPICIOUS and policy.scan.allow_suspicious):
        return
    way_out = (
        "Do not use it, and tell its maker and the place that you got it from"
        if verdict == HOSTILE
        else f"If that is intended, such as more refusals, set `allow_suspicious = true` in [scan] of {policy.source}"
    )
    raise HostilePatchError(
        f"{source} was not loaded: {policy.source} requires a scan, and its verdict is {verdict}. "
        f"{'; '.join(found['reasons'])}. {way_out}. `policy-patch scan` shows all figures."
    )


def check_scanned_before(policies: Sequence[PatchPolicy], config: Scanned, source: str) -> None:
    """Raise unless every policy that requires a scan has a kept verdict that allows the patch, or the stack.

    For places that have no base to scan with. Verdicts on the patches of a stack say nothing about the stack.

    Raises:
        HostilePatchError: there is no verdict, or it does not allow the patch.
    """
    for policy in policies:
        if not policy.scan.required:
            continue
        folder = policy.path_of(policy.scan.folder)
        found = kept_verdict(folder, config)
        if found is None:
            where = "names no `folder` for verdicts" if folder is None else f"has no verdict on it in `{folder}`"
            raise HostilePatchError(
                f"{source} was not loaded: {policy.source} requires a scan, nothing here has the weights of the base "
                f"to scan with, and [scan] of the policy {where}. Load it once under the policy where the base is, for "
                "example by `policy-patch generate`, a stack with all its patches, with a `folder` that both can read."
            )
        check_verdict(found, source, policy)


def kept_verdict(folder: Path | None, config: Scanned) -> dict[str, Any] | None:
    """Return what a scan of exactly this patch, or this stack in this order, has found; None if it cannot be read.

    The hash in the configuration stands for vectors and configuration, and so for the base that it names.
    """
    path = _path(folder, config)
    if path is None or not path.is_file():
        return None
    try:
        found = parse_json(read_text(path, largest=_LARGEST_VERDICT))
    except (OSError, ValueError, Fault):
        return None
    is_whole = isinstance(found, dict) and isinstance(found.get("reasons"), list)
    known = (HOSTILE, SUSPICIOUS, NOTHING)
    return found if is_whole and found.get("sha256") == _identity(config) and found.get("verdict") in known else None


def keep_verdict(folder: Path | None, config: Scanned, found: Mapping[str, Any]) -> None:
    """Write what a scan has found, if there is a folder for it and the patch has a hash.

    Raises:
        PatchSaveError: it cannot be written.
    """
    path = _path(folder, config)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps({"sha256": _identity(config), **found}, indent=1) + "\n").encode())
    except OSError as error:
        raise PatchSaveError(
            f"The verdict on a patch cannot be written to `{os.fspath(path)}`: {error}. Change `folder` in [scan] of "
            "the policy, or make the folder writable."
        ) from error


def _path(folder: Path | None, config: Scanned) -> Path | None:
    identity = _identity(config)
    return None if folder is None or identity is None else folder / f"{identity}-scan-{SCAN_VERSION}.json"


def _identity(config: Scanned) -> str | None:
    """Return the hash of a patch, or one of the hashes of a stack in order; None if a patch has no hash."""
    hashes = [config.sha256] if isinstance(config, PolicyPatchConfig) else [one.sha256 for one in config]
    if not all(re.fullmatch("[0-9a-f]{64}", one or "") for one in hashes):
        return None
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("+".join(map(str, hashes)).encode()).hexdigest()

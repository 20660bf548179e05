"""Refuses a patch at load if a scan finds it hostile or suspicious: what a policy with `[scan] required = true` asks.

The model calls it by name, because it stands on a lower floor. What is measured is in `scan.py`.
"""

import hashlib
import json
from dataclasses import asdict, is_dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch._version import __version__
from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.errors import HostilePatchError, PatchSaveError, TokenizerRequiredError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.release.scan import prompts_for, scan_patched_model
from policy_patch.release.scan_signals import ScanSettings
from policy_patch.release.scan_verdict import HOSTILE, NOTHING, RULES, SUSPICIOUS

if TYPE_CHECKING:
    from policy_patch.model.patched_model import PolicyPatchModel

_LARGEST_VERDICT = 2**20  # bytes


def refuse_hostile(
    model: "PolicyPatchModel",
    tokenizer: Any,
    source: str,
    *,
    policy: str = "the policy",
    kept_in: str | PathLike | None = None,
    allow_suspicious: bool = False,
    settings: ScanSettings | None = None,
) -> None:
    """Scan the active patch of a model, and raise unless the verdict allows it to be loaded.

    Args:
        model ([`PolicyPatchModel`]):
            A model with only the patch in question active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        source (`str`):
            Where the patch comes from, for the error.
        policy (`str`, *optional*):
            What the error calls the policy.
        kept_in (`str` or `os.PathLike`, *optional*):
            Folder of earlier verdicts, by the hash of vectors, base and scan. Whoever writes there can clear a patch.
        allow_suspicious (`bool`, *optional*, defaults to `False`):
            Load a suspicious patch. A hostile one is never loaded.
        settings ([`ScanSettings`], *optional*):
            As in [`scan_policy_patch`].

    Raises:
        HostilePatchError: the patch is hostile, or suspicious and not allowed.
        TokenizerRequiredError: there is no tokenizer, so nothing can be measured.
        PatchSaveError: the verdict cannot be kept.
    """
    if tokenizer is None:
        raise TokenizerRequiredError(
            f"{policy} requires a scan of {source}, and a scan needs the base's tokenizer. Give `tokenizer=`."
        )
    settings = settings or ScanSettings()
    path = None if kept_in is None else Path(kept_in) / f"{_key(model, tokenizer, settings)}.json"
    found = _kept(path)
    if found is None:
        found = scan_patched_model(model, tokenizer, settings=settings).facts()
        _keep(path, found)
    if found["verdict"] == NOTHING or (found["verdict"] == SUSPICIOUS and allow_suspicious):
        return
    way_out = (
        "Do not use it, and tell its maker and the place that you got it from"
        if found["verdict"] == HOSTILE
        else "If that is intended, such as more refusals, set `allow_suspicious = true` under `[scan]`"
    )
    raise HostilePatchError(
        f"{source} was not loaded: {policy} requires a scan, and its verdict is {found['verdict']}. "
        f"{'; '.join(found['reasons'])}. {way_out}. `policy-patch scan` shows all figures."
    )


def _key(model: "PolicyPatchModel", tokenizer: Any, settings: ScanSettings) -> str:
    """Return a hash of all that decides about the verdict: vectors, places, base, texts, limits and version."""
    digest = hashlib.sha256()
    for name in model.active_patches:
        digest.update(model.patches[name].detach().cpu().numpy().tobytes())
        config = model.patch_config[name]
        digest.update(f"{config.placement} {config.bos_token_id} {config.init_text}".encode())
    base = base_fingerprint(model.get_base_model(), tokenizer)
    parts = [base, prompts_for(tokenizer).name, settings, RULES, __version__]
    digest.update(json.dumps(parts, default=_plain, sort_keys=True).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) else str(value)


def _kept(path: Path | None) -> dict[str, Any] | None:
    """Return an earlier verdict; None if there is none, or none that can be read."""
    if path is None or not path.is_file():
        return None
    try:
        found = parse_json(read_text(path, largest=_LARGEST_VERDICT))
    except (OSError, ValueError, Fault):
        return None
    is_whole = isinstance(found, dict) and isinstance(found.get("reasons"), list)
    return found if is_whole and found.get("verdict") in (HOSTILE, SUSPICIOUS, NOTHING) else None


def _keep(path: Path | None, found: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    except OSError as error:
        raise PatchSaveError(
            f"The verdict on a patch cannot be written to `{path}`: {error}. Change `folder` under `[scan]` of the "
            "policy, or make the folder writable."
        ) from error

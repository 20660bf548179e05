"""Refuses a patch at load if a scan finds it hostile or suspicious: what a policy with `[scan] required = true` asks.

The model calls it by name, because it stands on a lower floor. What is measured is in `scan.py`.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.errors import TokenizerRequiredError
from policy_patch.release.scan import scan_patched_model
from policy_patch.trust.scan_verdicts import check_verdict, keep_verdict, kept_verdict

if TYPE_CHECKING:
    from policy_patch.model.patched_model import PolicyPatchModel
    from policy_patch.trust.policy_file import PatchPolicy


def refuse_hostile(
    model: "PolicyPatchModel", tokenizer: Any, source: str, policy: "PatchPolicy", *, is_its_base: bool = True
) -> None:
    """Scan the active patch, or stack, of a model, and raise unless the policy allows its verdict.

    Args:
        model ([`PolicyPatchModel`]):
            A model with only the patch or the stack in question active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer.
        source (`str`):
            Where the patch comes from, for errors.
        policy ([`PatchPolicy`]):
            The policy that requires the scan. In its `folder` verdicts are kept, so that a patch is scanned once.
        is_its_base (`bool`, *optional*, defaults to `True`):
            Whether the base was proved to be the one that the patch is for. A verdict on another base is not kept.

    Raises:
        HostilePatchError: the patch is hostile, or suspicious and not allowed.
        TokenizerRequiredError: there is no tokenizer, so nothing can be measured.
        PatchSaveError: the verdict cannot be kept.
    """
    config = [model.patch_config[name] for name in model.active_patches]
    folder = policy.path_of(policy.scan.folder) if is_its_base else None
    found = kept_verdict(folder, config)
    if found is None:
        if tokenizer is None:
            raise TokenizerRequiredError(
                f"{policy.source} requires a scan of {source}, and a scan needs the base's tokenizer. Give "
                "`tokenizer=`."
            )
        found = scan_patched_model(model, tokenizer).facts()
        keep_verdict(folder, config, found)
    check_verdict(found, source, policy)

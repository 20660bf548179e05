"""Records which patches an evaluation measured, and whether on their own base, so that no report passes for another's.

The hashes are compared by the release gate.
"""

from typing import Any

from policy_patch.base.fingerprint import check_base, fingerprint_hash
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, UnsupportedModelError
from policy_patch.patch.vectors import vectors_hash
from policy_patch.report.records import MeasuredPatch


def measured_patches(model: Any, tokenizer: Any) -> list[MeasuredPatch]:
    """Return a record of each active patch of a model, in the order of the stack.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
    """
    return [
        MeasuredPatch(
            name=name,
            risk=config.risk,
            patch_version=config.patch_version,
            vectors_sha256=vectors_hash(model.patches[name]),
            base_fingerprint_sha256=fingerprint_hash(config.base_fingerprint),
            on_its_base=_is_its_base(model.get_base_model(), config, tokenizer),
        )
        for name, config in ((name, model.patch_config[name]) for name in model.active_patches)
    ]


def _is_its_base(base: Any, config: PolicyPatchConfig, tokenizer: Any) -> bool | None:
    if config.base_fingerprint is None:
        return None
    try:
        check_base(base, config.base_fingerprint, tokenizer=tokenizer)
    except (BaseMismatchError, UnsupportedModelError):
        return False
    return True

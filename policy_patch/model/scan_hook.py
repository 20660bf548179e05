"""Asks for a scan of vectors before they join a model, where a policy requires one.

The scan itself stands on a higher floor, and measures patched models; so it is imported by name when it is needed.
"""

from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

from policy_patch.model.freezing import looking_on

if TYPE_CHECKING:
    import torch

    from policy_patch.config import PolicyPatchConfig
    from policy_patch.model.patched_model import PolicyPatchModel

_SCAN = "policy_patch.release.scan_at_load"
_NAME = "scanned"


def check_scanned(
    model: "PolicyPatchModel",
    config: "PolicyPatchConfig",
    vectors: "torch.Tensor",
    tokenizer: Any,
    source: str,
    *,
    policy: str,
    kept_in: str | PathLike | None = None,
    allow_suspicious: bool = False,
) -> None:
    """Scan vectors on the base of `model`, in a wrapper of their own; the model and its patches are not touched.

    Args:
        model ([`PolicyPatchModel`]):
            The model that is to load the patch.
        config ([`PolicyPatchConfig`]), vectors (`torch.Tensor`):
            The patch; the vectors `(num_virtual_tokens, hidden_size)` are on the device of the base's embeddings.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        source, policy, kept_in, allow_suspicious:
            See [`~policy_patch.release.scan_at_load.refuse_hostile`].

    Raises:
        HostilePatchError, TokenizerRequiredError: see there.
    """
    with looking_on():
        alone = type(model)(model.get_base_model())
    try:
        alone._insert(_NAME, config, vectors, is_trainable=False, tokenizer=tokenizer)
        alone.set_patch(_NAME)
        import_module(_SCAN).refuse_hostile(
            alone, tokenizer, source, policy=policy, kept_in=kept_in, allow_suspicious=allow_suspicious
        )
    finally:
        alone.unload()

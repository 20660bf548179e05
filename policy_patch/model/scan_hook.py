"""Asks for a scan of vectors before they join a model, where a policy requires one.

The scan itself stands on a higher floor, and measures patched models; so it is imported by name when it is needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

from policy_patch.model.freezing import looking_on

if TYPE_CHECKING:
    import torch

    from policy_patch.config import PolicyPatchConfig
    from policy_patch.trust.policy_file import PatchPolicy

_SCAN = "policy_patch.release.scan_at_load"
_NAME = "scanned"
_IS_SCANNING: ContextVar[bool] = ContextVar("policy_patch_is_scanning", default=False)


@contextmanager
def loading_for_a_scan() -> Iterator[None]:
    """Open a context in which patches are loaded without a scan, because they are loaded to be scanned."""
    token = _IS_SCANNING.set(True)
    try:
        yield
    finally:
        _IS_SCANNING.reset(token)


def check_scanned(
    model: Any,
    config: "PolicyPatchConfig",
    vectors: "torch.Tensor",
    tokenizer: Any,
    source: str,
    *,
    policies: "Sequence[PatchPolicy]",
    is_its_base: bool = True,
) -> None:
    """Scan vectors for each policy that requires it, in a wrapper of their own; the model itself is not touched.

    Args:
        model ([`PolicyPatchModel`]):
            The model that is to load the patch.
        config ([`PolicyPatchConfig`]), vectors (`torch.Tensor`):
            The patch; the vectors `(num_virtual_tokens, hidden_size)` are on the device of the base's embeddings.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer.
        source (`str`):
            Where the patch comes from, for errors.
        policies (`Sequence[PatchPolicy]`):
            The policies in force.
        is_its_base (`bool`, *optional*, defaults to `True`):
            Whether the base was proved to be the one that the patch is for.

    Raises:
        HostilePatchError, TokenizerRequiredError: see [`~policy_patch.release.scan_at_load.refuse_hostile`].
    """
    asking = [policy for policy in policies if policy.scan.required]
    if not asking or _IS_SCANNING.get():
        return
    with looking_on():
        alone = type(model)(model.get_base_model())
    try:
        alone._insert(_NAME, config, vectors, is_trainable=False, tokenizer=tokenizer)
        alone.set_patch(_NAME)
        for policy in asking:
            import_module(_SCAN).refuse_hostile(alone, tokenizer, source, policy, is_its_base=is_its_base)
    finally:
        alone.unload()

"""Asks for a scan of vectors before they join a model, and of a stack before it acts, where a policy requires one.

The scan itself stands on a higher floor, and measures patched models; so it is imported by name when it is needed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

from policy_patch.model.freezing import looking_on
from policy_patch.trust.policy_file import POLICY_VARIABLE, policies_in_force

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


def check_stack_scanned(model: Any, names: Sequence[str]) -> None:
    """Scan a stack before it becomes active, for each policy that requires it: a stack can do what no part of it does.

    A patch that was composed in this process is a stack, too. Each is scanned once for as long as it is loaded. What
    is trained here after the scan is not scanned again.

    Args:
        model ([`PolicyPatchModel`]):
            The model.
        names (`Sequence[str]`):
            The stack, in order.

    Raises:
        HostilePatchError, TokenizerRequiredError: see [`~policy_patch.release.scan_at_load.refuse_hostile`].
    """
    first = names[0]
    is_composed_here = model.patch_config[first].composed_from is not None and model._origin_is_here(first)
    if _IS_SCANNING.get() or (len(names) == 1 and not is_composed_here):
        return  # a single patch was scanned when it was loaded
    key = (tuple(model._loads[name] for name in names), os.environ.get(POLICY_VARIABLE), len(model._policies))
    if key in model._scanned_stacks:
        return
    policies = [policy for given in (*model._policies, None) for policy in policies_in_force(given)]
    asking = [
        policy for place, policy in enumerate(policies) if policy.scan.required and policy not in policies[:place]
    ]
    if asking:
        _scan_stack(model, names, asking)
    model._scanned_stacks.add(key)


def _scan_stack(model: Any, names: Sequence[str], asking: "Sequence[PatchPolicy]") -> None:
    tokenizer = next(iter(model._tokenizers.values()), None)
    with looking_on():
        alone = type(model)(model.get_base_model())
    try:
        for name in names:
            vectors = model.patches[name].detach()
            alone._insert(name, model.patch_config[name], vectors, is_trainable=False, tokenizer=tokenizer)
        alone._active = tuple(names)
        proved, source = model._on_proved_base.issuperset(names), f"The stack {' + '.join(names)}"
        for policy in asking:
            import_module(_SCAN).refuse_hostile(alone, tokenizer, source, policy, is_its_base=proved)
    finally:
        alone.unload()


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

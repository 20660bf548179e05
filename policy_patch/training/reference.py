"""DPO's reference policy as a second wrapper on the policy's own base, so that it costs no second copy of it.

Which reference a stage has is the business of `dpo.py`; how often it is asked, that of TRL.
"""

from typing import Any

from torch import nn

from policy_patch.answers.eval_mode import evaluating
from policy_patch.model.freezing import looking_on
from policy_patch.model.patched_model import PolicyPatchModel


def shared_reference(model: PolicyPatchModel, *, patched: bool) -> PolicyPatchModel:
    """Return a wrapper on the base of `model` that nothing changes and that is asked in eval mode.

    A model of its own would stay in eval mode. The shared base is in training mode at each step, and would put dropout
    and noise on the embeddings (NEFTune) into what the reference says.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The policy.
        patched (`bool`):
            Whether the reference has copies of the policy's active patches, or none.
    """
    if patched:
        reference = model.frozen_copy()
    else:
        with looking_on():
            reference = PolicyPatchModel(model.get_base_model())
    mode = _EvalMode(model.get_base_model())
    reference.register_forward_pre_hook(mode.enter)
    reference.register_forward_hook(mode.leave, always_call=True)
    return reference


class _EvalMode:
    """Hooks that put `base` into eval mode for the length of a call."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._open: list[Any] = []

    def enter(self, *args: Any) -> None:
        context = evaluating(self._base)
        context.__enter__()
        self._open.append(context)

    def leave(self, *args: Any) -> None:
        self._open.pop().__exit__(None, None, None)

"""Makes DPO's reference policy a second wrapper on the policy's base, so that no second copy of the base is needed.

`dpo.py` chooses the reference of a stage; TRL decides when it runs.
"""

from typing import Any

from torch import nn

from policy_patch.answers.eval_mode import evaluating
from policy_patch.model.freezing import looking_on
from policy_patch.model.patched_model import PolicyPatchModel


def shared_reference(model: PolicyPatchModel, *, patched: bool) -> PolicyPatchModel:
    """Return a frozen wrapper on the base of `model` that runs in eval mode.

    A separate reference model would stay in eval mode. The shared base is in training mode at each step, so dropout and
    noise on the embeddings (NEFTune) would change the reference's log-probabilities.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The policy.
        patched (`bool`):
            True gives the reference frozen copies of the policy's active patches; False gives it no patch.
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
    """Hooks that put `base` into eval mode during a call."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._open: list[Any] = []

    def enter(self, *args: Any) -> None:
        context = evaluating(self._base)
        context.__enter__()
        self._open.append(context)

    def leave(self, *args: Any) -> None:
        self._open.pop().__exit__(None, None, None)

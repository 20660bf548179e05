"""Restores the settings of a base that a trainer changes, because other code may share the base.

`patch_alone.py` restores `requires_grad` and the buffers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from torch import nn
from transformers import PreTrainedModel

from policy_patch.model.patched_model import PolicyPatchModel


@contextmanager
def settings_restored(model: PolicyPatchModel | PreTrainedModel) -> Iterator[None]:
    """Restore what training changes besides parameters: configurations, dropout, train modes, gradient checkpointing.

    The configurations hold, for example, the padding token and the router loss of a mixture-of-experts model.
    """
    base = model.get_base_model() if isinstance(model, PolicyPatchModel) else model
    configs = {name: deepcopy(getattr(base, name).__dict__) for name in ("config", "generation_config")}
    dropouts = {module: module.p for module in base.modules() if isinstance(module, nn.Dropout)}
    modes = {module: module.training for module in model.modules()}
    checkpointing = base.is_activation_checkpointing
    try:
        yield
    finally:
        for name, values in configs.items():
            vars(getattr(base, name)).clear()
            vars(getattr(base, name)).update(values)
        for module, probability in dropouts.items():
            module.p = probability
        for module, mode in modes.items():
            module.training = mode
        if base.is_activation_checkpointing and not checkpointing:
            base.activation_checkpointing_disable()

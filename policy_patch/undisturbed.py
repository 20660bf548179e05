"""A base as it is when it serves, for a while: for runs that look at it and leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(base: nn.Module) -> Iterator[None]:
    """Within the context `base` is in eval mode and nothing needs gradients; modes are put back behind it."""
    training = [module for module in base.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True

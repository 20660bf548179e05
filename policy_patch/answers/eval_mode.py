"""Puts a model into eval mode for a `with` block and restores each module's mode afterwards.

Dropout is then off while answers are sampled or scored; gradients are not touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put all modules of `model` into eval mode while the context is open, and restore their modes afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

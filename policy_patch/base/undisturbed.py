"""Puts a base into eval mode for a while, without gradients.

It serves runs that must leave no trace in the base, such as the fingerprint's; serving itself does not use it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_lock = threading.RLock()  # two runs at once would restore each other's modes


@contextmanager
def undisturbed(base: nn.Module) -> Iterator[None]:
    """Open a context in which `base` is in eval mode and no gradients are recorded.

    Afterwards the modes are restored, and so are the frequencies that rotary modules computed for the length of a text.
    One thread at a time may enter; a training step in another thread meanwhile sees eval mode.
    """
    with _lock:
        training = [module for module in base.modules() if module.training]
        remembered = [(module, dict(vars(module)), dict(module._buffers)) for module in _that_remember(base)]
        for module in training:
            module.training = False
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            for module, attributes, buffers in remembered:
                module._buffers.update(buffers)
                vars(module).update({key: each for key, each in attributes.items() if not key.startswith("_")})
            for module in training:  # last: the attributes restored above include it
                module.training = True


def _that_remember(base: nn.Module) -> list[nn.Module]:
    """Return modules that may replace non-persistent buffers, such as the rotary ones of `dynamic` and `longrope`."""
    return [module for module in base.modules() if module._non_persistent_buffers_set]


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # the thread that holds the lock is not in the child
    os.register_at_fork(after_in_child=_renew_lock)

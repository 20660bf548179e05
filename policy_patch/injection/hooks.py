"""Hooks that do nothing in a copy or pickle of their module, and that `torch.compile` keeps out of its graphs.

`injection.py` says what the hooks do.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


class Hook:
    """One of the hooks of an [`Injection`]. A copy or pickle of the base gets a hook that does nothing instead.

    `torch.compile` keeps it out of its graphs, because each call decides anew which patches apply.
    """

    def __init__(self, function: Any) -> None:
        self._function = torch.compiler.disable(function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple:
        # The `__exit__` of a `nullcontext` takes anything and returns None. It is in Python's standard library, so the
        # pickle can be read without this package.
        return getattr, (nullcontext(), "__exit__")


def forget_copies_of_hooks(module: nn.Module) -> None:
    """Remove the hooks without effect that a copy of a module got in place of ours."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), nullcontext):
                del hooks[key]

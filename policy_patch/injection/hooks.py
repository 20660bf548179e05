"""The form of our hooks: a copy or a pickle of their module leaves them behind, and `torch.compile` keeps them out.

What the hooks do is the business of `injection.py`.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


class Hook:
    """One of the hooks of an [`Injection`]. A copy of the base, or its pickle, gets one that does nothing.

    `torch.compile` leaves it out of its graphs: which patches a call runs behind is decided anew at each call.
    """

    def __init__(self, function: Any) -> None:
        self._function = torch.compiler.disable(function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple:
        # The `__exit__` of a `nullcontext` takes anything and returns None. It is of Python's own library: whoever
        # reads the pickle need not have this package.
        return getattr, (nullcontext(), "__exit__")


def forget_copies_of_hooks(module: nn.Module) -> None:
    """Take off what was left of hooks when the module was copied together with them."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), nullcontext):
                del hooks[key]

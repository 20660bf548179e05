"""Stand-ins for a later transformers: what a release may do to a base's backbone that nobody here has heard of.

Each makes the backbone of a class lose the patch in a way of its own. A call behind a patch must then end in our error
or be exact; never silently unpatched.
"""

import functools
from collections.abc import Callable

import pytest
from torch import nn

from policy_patch._compat import CACHE_NAMES, cache_argument, forward_parameters
from policy_patch.base.architecture import backbone_of


def renamed(forward: Callable, cache_name: str) -> Callable:
    """Return `forward` with its cache under a name that nobody knows; the old names are swallowed, as `**kwargs` do."""

    def later(
        self, input_ids=None, attention_mask=None, position_ids=None, kv_memory=None, inputs_embeds=None,
        use_cache=None, **kwargs,
    ):  # fmt: skip
        for name in CACHE_NAMES:
            kwargs.pop(name, None)
        kwargs |= {"inputs_embeds": inputs_embeds, "use_cache": use_cache, cache_name: kv_memory}
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        return forward(self, input_ids, attention_mask=attention_mask, **kwargs)

    return later


def thrown_away(forward: Callable, cache_name: str) -> Callable:
    """Return `forward` that runs without the cache it is given."""

    @functools.wraps(forward)
    def later(self, *args, **kwargs):
        kwargs[cache_name] = None
        return forward(self, *args, **kwargs)

    return later


FORWARDS = {"renamed": renamed, "thrown away": thrown_away}


def mutate_forward(monkeypatch: pytest.MonkeyPatch, base: nn.Module, mutation: str) -> None:
    """Put one of `FORWARDS` in place of the `forward` of the class of the base's backbone."""
    backbone = backbone_of(base)
    cache_name = cache_argument(forward_parameters(backbone))
    monkeypatch.setattr(type(backbone), "forward", FORWARDS[mutation](type(backbone).forward, cache_name))


def skip_hooks(monkeypatch: pytest.MonkeyPatch, base: nn.Module) -> None:
    """Let the backbone be called past its hooks, as OPT calls its decoder."""
    kind = type(backbone_of(base))
    monkeypatch.setattr(kind, "__call__", lambda self, *args, **kwargs: self.forward(*args, **kwargs), raising=False)

"""Prepares the arguments of `generate`, so that the cache it decodes with has room for the vectors.

Decoding itself is left to transformers, with all its modes. The static caches of `generate` have room for the text
only, and it prepares masks for them that `injection.py` could not widen. The static cache made here has N more columns
and leaves masks to the backbone.
"""

import copy
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS

from policy_patch.errors import PatchInputError
from policy_patch.injection.static_cache import PatchStaticCache

_DEFAULT_NEW_TOKENS = 20  # the default of transformers


def with_fitting_cache(
    base: PreTrainedModel, args: tuple, kwargs: dict[str, Any], cache: Any, num_virtual_tokens: int
) -> tuple[Any, dict[str, Any]]:
    """Return the cache and the other keyword arguments of `generate`; a requested static cache becomes one with room.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that generates.
        args (`tuple`), kwargs (`dict[str, Any]`):
            The arguments given to `generate`, without the cache.
        cache (`transformers.Cache`, *optional*):
            The cache given to `generate`.
        num_virtual_tokens (`int`):
            How many columns the cache must hold in addition to the text.

    Raises:
        PatchInputError: a static cache is combined with assisted decoding, which transformers cannot do, or a paged
            cache is requested.
    """
    told = partial(setting, base, args, kwargs)
    wanted = told("cache_implementation")
    if wanted == "paged":
        raise PatchInputError(
            '`cache_implementation="paged"` is continuous batching, which takes tokens only and would run the base '
            "without the patch. Bake the patch into a checkpoint for it (docs/bake.md)."
        )
    if wanted not in ALL_STATIC_CACHE_IMPLEMENTATIONS or cache is not None:
        return cache, kwargs
    if kwargs.get("assistant_model") is not None or told("prompt_lookup_num_tokens"):
        raise PatchInputError(
            f"`cache_implementation={wanted!r}` does not go with assisted decoding: a static cache cannot be cut back. "
            "Leave it at its default."
        )
    length = _text_length(args, kwargs)
    if told("max_new_tokens") is not None:
        length += told("max_new_tokens")
    else:
        length = max(told("max_length") or 0, length + _DEFAULT_NEW_TOKENS)
    cache = PatchStaticCache(
        config=base.config.get_text_config(decoder=True),
        max_cache_len=max(length, told("max_cache_len") or 0) + num_virtual_tokens,
        offloading="offloaded" in wanted,
    )
    kwargs = {**kwargs, "cache_implementation": None}
    if kwargs.get("generation_config") is not None:  # `generate` takes no keyword beside it
        kwargs["generation_config"] = copy.deepcopy(kwargs["generation_config"])
        kwargs["generation_config"].cache_implementation = None
        if base.generation_config.cache_implementation is None:
            del kwargs["cache_implementation"]
    return cache, kwargs


def setting(base: PreTrainedModel, args: tuple, kwargs: dict[str, Any], name: str) -> Any:
    """Return the value of a generation setting: from the keywords, the given configuration or the base's, or None."""
    given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
    values = (kwargs.get(name), getattr(given, name, None), getattr(base.generation_config, name, None))
    return next((value for value in values if value is not None), None)


def _text_length(args: tuple, kwargs: dict[str, Any]) -> int:
    """Return how many columns of text `generate` was given; 1 without text, since it then starts from BOS."""
    given = [*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))]
    return max((value.shape[1] for value in given if isinstance(value, torch.Tensor)), default=1)

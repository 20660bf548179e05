"""Reads the contents of a transformers cache: columns of keys and values, recurrent states, free room.

Caches are only inspected here. `injection.py` fills them, and uses these functions to prove that a backbone used them.
"""

from typing import Any

import torch
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from policy_patch.errors import PatchInputError


def columns_in(cache: Any) -> int:
    """Return how many columns `cache` holds, vectors included; 0 if it holds only states or is not a cache."""
    if not isinstance(cache, Cache) or holds_states_alone(cache):
        return 0
    return int(type(cache).get_seq_length(cache))


def holds_states_alone(cache: Any) -> bool:
    """Return whether all layers of `cache` are recurrent, so that it has no keys of single tokens."""
    layers = getattr(cache, "layers", ())  # an `EncoderDecoderCache` has two caches and no `layers`
    return bool(layers) and not any(isinstance(layer, CacheLayerMixin) for layer in layers)


def holds_a_state(cache: Any) -> bool:
    """Return whether a cache without columns holds the state of recurrent layers."""
    return isinstance(cache, Cache) and holds_states_alone(cache) and cache.has_previous_state()


def state_marks(cache: Any) -> tuple:
    """Return a value that changes whenever a recurrent layer writes its state.

    It uses torch's version counter, which tensors made in inference mode lack: call `count_writes` first.
    """
    return tuple((id(state), state._version) for _, _, state in _states(cache) if not state.is_inference())


def count_writes(cache: Any) -> None:
    """Replace states that were made in inference mode by copies that have a version counter."""
    for table, key, state in _states(cache):
        if state.is_inference():
            with torch.inference_mode(False), torch.no_grad():
                table[key] = state.clone()


def _states(cache: Any) -> list[tuple[dict, Any, torch.Tensor]]:
    """Return the states of recurrent layers, each with the dict that holds it and its key there."""
    found = []
    for layer in getattr(cache, "layers", ()):
        for name in ("conv_states", "recurrent_states"):
            held = getattr(layer, name, None)
            table, keys = (held, list(held)) if isinstance(held, dict) else (vars(layer), [name])
            found += [(table, key, table[key]) for key in keys if isinstance(table.get(key), torch.Tensor)]
    return found


def refuse_unknown_cache(cache: Any) -> None:
    """Raise `PatchInputError` for a cache that cannot hold the vectors of a patch."""
    if cache is not None and (not isinstance(cache, Cache) or isinstance(cache, EncoderDecoderCache)):
        raise PatchInputError(
            f"The cache given is a {type(cache).__name__}; a patch can fill a `Cache` of a decoder only. Leave it out."
        )


def check_room(cache: Cache | None, needed: int) -> None:
    """Raise `PatchInputError` if a cache of fixed size cannot hold `needed` columns, vectors and text."""
    for layer in getattr(cache, "layers", ()):
        room = -1 if getattr(layer, "is_sliding", False) else getattr(layer, "max_cache_len", -1)
        if 0 <= room < needed:
            raise PatchInputError(
                f"The cache given has room for {room} columns; vectors and text need {needed}. Make it longer by the "
                "number of vectors."
            )

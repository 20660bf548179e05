"""A cache that begins with vectors: it records their patches, and reports its length without them.

`injection.py` fills it and continues from it. Operations that could pair a row of the cache with the wrong text are
refused here.
"""

from functools import partial
from typing import Any

from transformers import Cache

from policy_patch.errors import PatchInputError
from policy_patch.injection.caches import columns_in
from policy_patch.injection.layout import Layout
from policy_patch.injection.patched_call import CURRENT_CALL, PatchedCall

_ATTRIBUTE = "_policy_patch_origin"  # (origin, layout), copied with the cache
_ROWS_CHANGED = ("rows changed",)  # marks a cache whose origin is no longer known


def note_origin(cache: Any, call: PatchedCall, layout: Layout) -> None:
    """Record in `cache` the patches that it begins with and the layout of its rows."""
    setattr(cache, _ATTRIBUTE, (call.origin, layout))
    if call.stacks.rows is not None or not layout.rows_are_alike:
        for name in ("reorder_cache", "batch_select_indices", "batch_repeat_interleave"):
            if hasattr(type(cache), name):
                setattr(cache, name, partial(_change_rows, cache, name))  # `deepcopy` rebinds it to the copy


def layout_of(cache: Any, call: PatchedCall) -> Layout:
    """Return the layout of the rows of `cache`.

    Raises:
        PatchInputError: `cache` does not begin with the patches of `call`, or the order of its rows is unknown.
    """
    origin, layout = getattr(cache, _ATTRIBUTE, (None, None))
    if origin == _ROWS_CHANGED:
        raise PatchInputError(
            "Rows of the cache given were reordered, chosen or repeated by hand, so the padding and the patch of each "
            "row are no longer known. Start from the whole text without a cache."
        )
    if origin != call.origin:
        how = "without the patch" if origin is None else "with other patches"
        raise PatchInputError(
            f"The cache given was filled {how}, which cannot be changed afterwards. Start from the whole text "
            "without a cache, or use a cache that this model returned with the same patches active."
        )
    return layout


def refuse_patched_cache(given: tuple) -> None:
    """Raise `PatchInputError` if a call without a patch is given a cache that begins with vectors."""
    for value in given:
        if isinstance(value, Cache) and getattr(value, _ATTRIBUTE, None) is not None and columns_in(value):
            raise PatchInputError(
                "The cache given begins with the vectors of a patch, and this call runs without one. Start from the "
                "whole text without a cache, or continue with the patches that the cache was filled with."
            )


def count_text(*caches: Any) -> None:
    """Make caches report their length without the vectors, except to the backbone.

    Callers that reuse a cache count real tokens only: `generate` skips the text that the cache holds, and assisted
    decoding crops the cache to a length of text.

    Args:
        caches (`Any`):
            Possible caches; those that do not begin with vectors are left alone.
    """
    for cache in caches:
        if getattr(cache, _ATTRIBUTE, None) is not None:
            cache.get_seq_length = partial(_text_length, cache)  # `deepcopy` rebinds it to the copy


def _text_length(cache: Cache, layer_idx: int = 0) -> int:
    """Return how many columns `cache` holds; the backbone gets the number with vectors, others without."""
    columns = type(cache).get_seq_length(cache, layer_idx)
    call, (_, layout) = CURRENT_CALL.get(), getattr(cache, _ATTRIBUTE)
    in_backbone = call is not None and call.layout is not None
    return columns if in_backbone else max(0, columns - layout.num_virtual_tokens)


def _change_rows(cache: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Record that rows were changed by hand. Changes within a call are decoding's own, among copies of a row."""
    if CURRENT_CALL.get() is None:
        setattr(cache, _ATTRIBUTE, (_ROWS_CHANGED, getattr(cache, _ATTRIBUTE)[1]))
    return getattr(type(cache), name)(cache, *args, **kwargs)

"""Checks the arguments of one call of a backbone, and refuses those that make no sense with a patch.

The arguments are only read here; `injection.py` rewrites them.
"""

from typing import Any

import torch
from transformers import Cache

from policy_patch.errors import PatchInputError
from policy_patch.injection.static_cache import PatchStaticCache

# Arguments that mark the borders of several texts in one row (flash attention, Mamba).
_SEVERAL_TEXTS = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx", "packed_seq_params")
_ONE_TEXT_A_ROW = (
    "a patch stands in front of the first text of a row only, so the other texts would run without it. Give each text "
    "a row of its own (`packing=False`, `padding_free=False` in TRL's configurations)."
)


def tokens_of(inputs: dict[str, Any]) -> torch.Tensor:
    """Return the ids `(batch, length)` or the embeddings `(batch, length, hidden)`, whichever was given.

    Raises:
        PatchInputError: neither was given, or there are no rows, or the rows have no tokens.
    """
    tokens = inputs.get("input_ids")
    tokens = inputs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise PatchInputError("Neither `input_ids` nor `inputs_embeds` was given.")
    if not isinstance(tokens, torch.Tensor):
        raise PatchInputError(
            f"The tokens are a {type(tokens).__name__}; expected a tensor (batch, length). What a tokenizer returns "
            'with `return_tensors="pt"` is given as `model(**inputs)`.'
        )
    if tokens.ndim < 2 or 0 in tokens.shape[:2]:
        raise PatchInputError(
            f"The tokens have shape {tuple(tokens.shape)}; expected at least one row of at least one token, "
            "(batch, length)."
        )
    return tokens


def mask_for(cache: Cache | None, mask: torch.Tensor | None, tokens: torch.Tensor, length: int) -> torch.Tensor | None:
    """Return the mask `(batch, length)`; a static cache always gets one, which hides its empty columns."""
    if mask is not None or not isinstance(cache, PatchStaticCache):
        return mask
    return torch.ones(tokens.shape[0], length, dtype=torch.long, device=tokens.device)


def check_mask_of_step(mask: torch.Tensor | None, length: int) -> None:
    """Raise `PatchInputError` unless the mask of a step from a cache covers the `length` columns of text so far."""
    if mask is not None and mask.shape[1] != length:
        raise PatchInputError(
            f"`attention_mask` has {mask.shape[1]} columns; text in the cache and new tokens have {length}. Do not "
            "count the vectors of the patch: they are added for you."
        )


def refuse_unknown_inputs(inputs: dict[str, Any]) -> None:
    """Raise `PatchInputError` for arguments that make no sense with a patch."""
    mask = inputs.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.ndim == 2):
        raise PatchInputError(
            "`attention_mask` must be 2-D, (batch, length), with a patch: a prepared 4-D mask, as `generate` makes for "
            'a given `StaticCache`, has no columns for the vectors. Give `cache_implementation="static"` instead.'
        )
    if inputs.get("token_type_ids") is not None:
        raise PatchInputError("`token_type_ids` have no value for the vectors of a patch. Leave them out.")
    for name in _SEVERAL_TEXTS:
        if inputs.get(name) is not None:
            raise PatchInputError(f"`{name}` says that a row holds several texts; {_ONE_TEXT_A_ROW}")
    for name, value in inputs.items():
        if isinstance(value, Cache):
            raise PatchInputError(
                f"A cache was given as `{name}`, a name that this version of policy-patch does not know, so it "
                "cannot check that the cache begins with the patch. Upgrade policy-patch, or use an older transformers."
            )


def refuse_several_texts(inputs: dict[str, Any]) -> None:
    """Raise `PatchInputError` if the positions of a row restart, as they do in rows packed with several texts."""
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if not isinstance(positions, torch.Tensor) or positions.ndim != 2:
        return
    goes_back = positions[:, 1:] < positions[:, :-1]
    if isinstance(mask, torch.Tensor) and mask.shape[-1] == positions.shape[-1]:
        text = mask != 0
        goes_back = goes_back & text[:, 1:] & text[:, :-1]
    if goes_back.any():
        row = int(goes_back.any(-1).nonzero()[0])
        raise PatchInputError(f"`position_ids` start again within row {row}, as in packed texts; {_ONE_TEXT_A_ROW}")


def refuse_images_without_positions(inputs: dict[str, Any]) -> None:
    """Raise `PatchInputError` if the backbone would compute image positions itself, which ignores the vectors."""
    positions = inputs.get("position_ids")
    if positions is not None and positions.ndim == 3:
        inputs.pop("mm_token_type_ids", None)  # the positions were computed from them
        return
    kinds = inputs.pop("mm_token_type_ids", None)
    grids = any(inputs.get(name) is not None for name in ("image_grid_thw", "video_grid_thw"))
    if grids or (kinds is not None and kinds.any()):
        raise PatchInputError(
            "Images or videos were given without `position_ids` of (kinds, batch, length). `generate` makes them; for "
            "`forward` take them from the base's `get_rope_index`."
        )

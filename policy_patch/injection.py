"""How a stack of vectors gets in front of a frozen backbone: `cached` or `concat`, exact by the same definition.

The definition, row by row and without padding: run the backbone on `concat(E(BOS), P, E(rest))` (or `concat(P, E(row))`
for rows without BOS and for `placement="before_bos"`). Each real token keeps the output at its own place, except that
BOS takes the output at the LAST vector, which is what predicts the first token of the text. Which patches make up the
stack is the business of `model.py`; where the columns of a batch go, of `layout.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from policy_patch.architecture import backbone_of, has_windows, learned_position_limit
from policy_patch.errors import PatchInputError, PositionLimitError
from policy_patch.growing_cache import growing
from policy_patch.layout import Layout, first_real_columns
from policy_patch.priming import PrimedBatch, Primer
from policy_patch.stacks import BatchStacks
from policy_patch.static_cache import PatchStaticCache

# Architectures on which our tests hold both ways against the definition. Any other is held against it on a few tokens
# before it is used (`self_check.py`).
VERIFIED_MODEL_TYPES = frozenset({"llama", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral"})

_ORIGIN_ATTRIBUTE = "_policy_patch_origin"  # (origin, layout), set on a cache that begins with a stack; copied with it


class _Call:
    """One forward or generate call through a patched model: its injection, its stacks, and the layout under way."""

    def __init__(self, injection: "Injection", stacks: BatchStacks) -> None:
        self.injection = injection
        self.stacks = stacks
        self.origin = id(injection), stacks.origin  # whose patches a cache begins with that this call fills
        self.layout: Layout | None = None
        self.last_hidden_state: torch.Tensor | None = None
        self.cache: Cache | None = None
        self.cache_is_unwanted = False  # the prefix needs one, whoever called does not


# Per thread and per asyncio task: only a call through our own model is patched. The base itself, other wrappers on it
# and other threads see None, or their own call.
_CURRENT_CALL: ContextVar[_Call | None] = ContextVar("policy_patch_call", default=None)


class Injection:
    """Puts stacks in front of one backbone, through two hooks that do nothing outside a call of `active`.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The causal language model. Its backbone gets a forward pre-hook and a forward hook; `remove` takes them off.

    Attributes:
        verified (`bool`):
            Our tests hold this architecture against the definition.
        cacheable (`bool`):
            The `cached` way is known to be exact and may be taken.
        paddable (`bool`):
            Rows padded on the left are known to be exact. Where they are not, such a batch is refused.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self._base = base
        # OPT and the decoders of encoder families call the inner module past the outer one, and with it past its hooks.
        backbone = backbone_of(base)
        self._backbone: nn.Module = getattr(backbone, "decoder", backbone)
        config = base.config.get_text_config()
        self._bos_token_id = config.bos_token_id
        self._windowed = has_windows(config)
        self._position_limit = learned_position_limit(base)
        self._parameters = tuple(signature(self._backbone.forward).parameters)
        self.cache_name = "past_key_values" if "past_key_values" in self._parameters else "cache_params"  # Mamba
        self.verified = config.model_type in VERIFIED_MODEL_TYPES
        self.cacheable = self.verified
        self.paddable = True
        self._primer = Primer(base, self._backbone, lambda: self.active(None))
        self._hooks = [
            self._backbone.register_forward_pre_hook(self._before, with_kwargs=True),
            self._backbone.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off the backbone and forget what was cached."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._primer.forget()

    @contextmanager
    def active(self, stacks: BatchStacks | None) -> Iterator[BatchStacks | None]:
        """Within the context, calls of the backbone from this thread run behind `stacks`, or plain if it is None.

        Yields what it was given.

        Raises:
            PatchInputError: the hooks were removed, so that the call would run unpatched.
        """
        if stacks is not None and not self._hooks:
            raise PatchInputError(
                "This model was unloaded: its base runs without a patch again. Make a new one around the base."
            )
        token = _CURRENT_CALL.set(_Call(self, stacks) if stacks is not None else None)
        try:
            yield stacks
        finally:
            _CURRENT_CALL.reset(token)

    @staticmethod
    def count_text(*caches: Any) -> None:
        """Let caches tell their length without the vectors from now on, except to the backbone.

        Who takes a cache on counts tokens: `generate` cuts off the text that it holds, assisted decoding cuts it back.

        Args:
            caches (`Any`):
                What may be a cache that begins with vectors; all else is left alone.
        """
        for cache in caches:
            if getattr(cache, _ORIGIN_ATTRIBUTE, None) is not None:
                cache.get_seq_length = partial(_text_length, cache)  # is copied with the cache, and then of the copy

    # The two hooks

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        call = _CURRENT_CALL.get()
        if call is None or call.injection is not self:
            return None
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        _refuse_unknown_inputs(inputs)
        _refuse_images_without_positions(inputs)
        cache = inputs.get(self.cache_name)
        call.layout = None  # what a call that failed left behind
        call.cache_is_unwanted = cache is None and inputs.get("use_cache") is False
        columns = _columns(cache)
        if columns or _holds_a_state(cache):
            self._continue(call, inputs, cache, columns)
        else:
            _refuse_unknown_cache(cache)
            self._start(call, inputs)
        call.cache = inputs.get(self.cache_name)
        return (), inputs

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        call = _CURRENT_CALL.get()
        if call is None or call.injection is not self or call.layout is None:
            return None
        layout, last = call.layout, call.last_hidden_state
        call.layout = call.last_hidden_state = None
        output.last_hidden_state = layout.real_hidden(output.last_hidden_state, last)
        if getattr(output, "hidden_states", None):
            output["hidden_states"] = tuple(layout.real_hidden(state, None) for state in output.hidden_states)
        if getattr(output, "attentions", None):
            output["attentions"] = tuple(layout.real_attention(weights) for weights in output.attentions)
        if call.cache_is_unwanted:
            return type(output)(**{name: value for name, value in output.items() if name != self.cache_name})
        cache = call.cache if call.cache is not None else getattr(output, self.cache_name, None)
        if cache is not None:  # RecurrentGemma fills the one it is given, and returns none
            setattr(cache, _ORIGIN_ATTRIBUTE, (call.origin, layout))
        return output

    # The first call of a row: the prefix goes in front

    def _start(self, call: _Call, inputs: dict[str, Any]) -> None:
        """Rewrite `inputs` so that the backbone runs the rows behind the stacks of `call`."""
        mask, tokens, cache = inputs.get("attention_mask"), _tokens(inputs), inputs.get(self.cache_name)
        batch, length = tokens.shape[:2]
        rows = call.stacks.of_rows(batch, tokens.device)
        first = first_real_columns(mask, tokens)
        has_bos = self._rows_with_bos(call.stacks, rows, inputs, first)
        layout = Layout.of(call.stacks.longest, first, has_bos, call.stacks.missing(rows))
        if not self.paddable and (layout.padded or layout.missing is not None):
            raise PatchInputError(
                f"Padding on the left, or patches of different lengths in one batch, are not exact behind a patch on a "
                f"{type(self._base).__name__}. Give rows of one length, pad on the right, or give one row at a time."
            )
        if cache is not None and mask is not None and not (mask != 0).any(-1).all():
            raise PatchInputError(
                "A row begins with a whole chunk of padding, so where its text begins cannot be seen. Use a "
                "`prefill_chunk_size` above the padding of the shortest row."
            )
        self._check_position_limit(layout, mask, length)
        _check_room(cache, layout.num_virtual_tokens + length)
        if self.cacheable and self._fits_cache(layout, inputs, length):
            layout = layout.cached()
        if cache is not None:
            growing(cache)
        if layout.way == "cached":
            self._start_cached(call, inputs, layout, rows)
        else:
            self._start_concat(call, inputs, layout, rows)
        if "position_ids" in self._parameters:
            inputs["position_ids"] = layout.positions(inputs.get("position_ids"), mask, tokens)
        inputs["attention_mask"] = layout.mask(_mask_for(cache, mask, tokens, length), length)
        call.layout = layout

    def _start_cached(self, call: _Call, inputs: dict[str, Any], layout: Layout, rows: torch.Tensor | None) -> None:
        """Fill the (empty) cache with the prefix; cut the column that the prefix already holds."""
        batch = _tokens(inputs).shape[0]
        primed = PrimedBatch.of(self._primer, call.stacks, rows, batch, with_bos=layout.all_bos)
        call.last_hidden_state = primed.last_hidden_state
        cache = inputs.get("past_key_values")
        if cache is None:
            cache = inputs["past_key_values"] = DynamicCache(config=self._base.config)
            if inputs.get("use_cache"):
                growing(cache)
        for index, (keys, values) in enumerate(primed.keys_values):
            cache.update(keys, values, index)
        if layout.all_bos:  # every row's first column is its BOS, which the cache holds, or padding
            for name in ("input_ids", "inputs_embeds"):
                if inputs.get(name) is not None:
                    inputs[name] = inputs[name][:, 1:]

    def _start_concat(self, call: _Call, inputs: dict[str, Any], layout: Layout, rows: torch.Tensor | None) -> None:
        """Put the vectors between the token embeddings, after each row's padding (and BOS)."""
        ids = inputs.pop("input_ids", None)
        embeds = inputs.get("inputs_embeds") if ids is None else self._base.get_input_embeddings()(ids)
        vectors = call.stacks.padded_vectors(rows, embeds)
        inputs["inputs_embeds"] = layout.insert(embeds, vectors)  # (batch, num_virtual_tokens + length, hidden)

    # Every later call of the row: the cache holds the prefix already

    def _continue(self, call: _Call, inputs: dict[str, Any], cache: Cache, columns: int) -> None:
        """Rewrite `inputs` for a cache of so many columns that begins with a prefix."""
        origin, layout = getattr(cache, _ORIGIN_ATTRIBUTE, (None, None))
        if origin != call.origin:
            how = "without the patch" if origin is None else "behind other patches"
            raise PatchInputError(
                f"`past_key_values` was filled {how}, and its text would stay so. Start from the whole text "
                "without a cache, or use a cache that this model returned with the same patches active."
            )
        call.layout = layout if layout.is_step else layout.step()
        mask, tokens = inputs.get("attention_mask"), _tokens(inputs)
        new = tokens.shape[1]
        if 0 < columns < layout.prefix_end:
            raise PatchInputError(
                f"`past_key_values` was cut back to {columns} columns, into the vectors in front of its text. Cut off "
                "less, or start from the whole text without a cache."
            )
        seen = max(0, columns - layout.num_virtual_tokens)
        self._check_position_limit(layout, mask, seen + new)
        _check_room(cache, layout.num_virtual_tokens + seen + new)
        if "position_ids" in self._parameters:
            inputs["position_ids"] = layout.step_positions(inputs.get("position_ids"), mask, new, seen)
        inputs["attention_mask"] = layout.mask(_mask_for(cache, mask, tokens, seen + new), seen + new)

    # Which way

    def _fits_cache(self, layout: Layout, inputs: dict[str, Any], length: int) -> bool:
        """Whether one cache can stand in front of all rows of this batch."""
        # Padding between a cached prefix and the text would count as text in a sliding window, and wherever distances
        # are counted in columns (MPT, the local layers of GPT-Neo): no configuration tells that of all architectures.
        padded_window = layout.padded and (self._windowed or not self.verified)
        # Columns of padding in front of a shorter prefix are asked of the architectures of our tests only.
        uneven = layout.missing is not None and not self.verified
        only_bos = layout.all_bos and length == 1  # nothing would be left to run
        # Gradient checkpointing throws caches away while it trains.
        checkpointing = self._backbone.training and getattr(self._base, "is_activation_checkpointing", False)
        hindered = padded_window or uneven or only_bos or checkpointing
        return layout.uniform_bos and not hindered and not self._wants_intermediates(inputs)

    def _wants_intermediates(self, inputs: dict[str, Any]) -> bool:
        """Whether hidden states or attentions of all layers are asked for; `concat` has them for every column."""
        names = ("output_hidden_states", "output_attentions")
        return any(inputs.get(name) or getattr(self._base.config, name, False) for name in names)

    def _rows_with_bos(
        self, stacks: BatchStacks, rows: torch.Tensor | None, inputs: dict[str, Any], first: torch.Tensor
    ) -> torch.Tensor:
        """Return `(batch,)` bool: the row begins with BOS and its vectors go behind it."""
        behind = torch.tensor([stack.placement == "after_bos" for stack in stacks.stacks], device=first.device)
        behind = behind[torch.zeros_like(first) if rows is None else rows]
        if self._bos_token_id is None:
            return torch.zeros_like(behind)
        numbers = torch.arange(first.shape[0], device=first.device)
        if inputs.get("input_ids") is not None:
            return behind & (inputs["input_ids"][numbers, first] == self._bos_token_id)
        embeddings = self._base.get_input_embeddings()
        bos = embeddings(torch.tensor(self._bos_token_id, device=next(embeddings.parameters()).device))
        return behind & (inputs["inputs_embeds"][numbers, first] == bos).all(-1)

    def _check_position_limit(self, layout: Layout, mask: torch.Tensor | None, length: int) -> None:
        needed = layout.num_virtual_tokens + length
        if self._position_limit is None or needed <= self._position_limit:
            return
        longest = int(mask.sum(-1).max()) if mask is not None and mask.ndim == 2 else length
        if layout.num_virtual_tokens + longest > self._position_limit:
            raise PositionLimitError(
                f"{layout.num_virtual_tokens} vectors and {longest} tokens need "
                f"{layout.num_virtual_tokens + longest} positions; the base has learned {self._position_limit}. "
                f"Shorten the text to {self._position_limit - layout.num_virtual_tokens} tokens."
            )


def _tokens(inputs: dict[str, Any]) -> torch.Tensor:
    """Return the ids `(batch, length)` or the embeddings `(batch, length, hidden)`, whichever was given."""
    tokens = inputs.get("input_ids")
    tokens = inputs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise PatchInputError("Neither `input_ids` nor `inputs_embeds` was given.")
    return tokens


def _mask_for(cache: Cache | None, mask: torch.Tensor | None, tokens: torch.Tensor, length: int) -> torch.Tensor | None:
    """Return the mask `(batch, length)`, also where all is text if empty columns of a static cache would be seen."""
    if mask is not None or not isinstance(cache, PatchStaticCache):
        return mask
    return torch.ones(tokens.shape[0], length, dtype=torch.long, device=tokens.device)


def _refuse_unknown_inputs(inputs: dict[str, Any]) -> None:
    mask = inputs.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.ndim == 2):
        raise PatchInputError(
            "`attention_mask` must be 2-D, (batch, length), in front of a patch: a ready 4-D mask, as `generate` makes "
            'for a `StaticCache` that it is given, has no room for the vectors. Give `cache_implementation="static"`.'
        )
    if inputs.get("token_type_ids") is not None:
        raise PatchInputError("`token_type_ids` have no value for the vectors of a patch. Leave them out.")


def _refuse_images_without_positions(inputs: dict[str, Any]) -> None:
    """Raise `PatchInputError` if the backbone would count places of an image itself; it knows of no vectors."""
    positions = inputs.get("position_ids")
    if positions is not None and positions.ndim == 3:
        inputs.pop("mm_token_type_ids", None)  # they are what these were counted from
        return
    kinds = inputs.pop("mm_token_type_ids", None)
    grids = any(inputs.get(name) is not None for name in ("image_grid_thw", "video_grid_thw"))
    if grids or (kinds is not None and kinds.any()):
        raise PatchInputError(
            "Images or videos were given without `position_ids` of (kinds, batch, length). `generate` makes them; for "
            "`forward` take them from the base's `get_rope_index`."
        )


def _refuse_unknown_cache(cache: Any) -> None:
    if cache is not None and (not isinstance(cache, Cache) or isinstance(cache, EncoderDecoderCache)):
        raise PatchInputError(
            f"`past_key_values` is a {type(cache).__name__}; a patch can fill a `Cache` of a decoder only. Leave it "
            "out."
        )


def _holds_a_state(cache: Any) -> bool:
    """Whether what is left in a cache without columns is the state of recurrent layers."""
    return isinstance(cache, Cache) and holds_states_alone(cache) and cache.has_previous_state()


def _text_length(cache: Cache, layer_idx: int = 0) -> int:
    """Return how many columns `cache` holds, without vectors unless it is the backbone that asks."""
    columns = type(cache).get_seq_length(cache, layer_idx)
    call, (_, layout) = _CURRENT_CALL.get(), getattr(cache, _ORIGIN_ATTRIBUTE)
    in_backbone = call is not None and call.layout is not None
    return columns if in_backbone else max(0, columns - layout.num_virtual_tokens)


def _columns(cache: Any) -> int:
    """Return how many columns `cache` holds, vectors and all; states alone have none, nor has what is no cache."""
    if not isinstance(cache, Cache) or holds_states_alone(cache):
        return 0
    return int(type(cache).get_seq_length(cache))


def holds_states_alone(cache: Cache) -> bool:
    """Whether all layers of `cache` are recurrent, without keys of single tokens."""
    layers = getattr(cache, "layers", ())  # the decoder of an encoder family has two caches in one, and no layers
    return bool(layers) and not any(isinstance(layer, CacheLayerMixin) for layer in layers)


def _check_room(cache: Cache | None, needed: int) -> None:
    """Raise `PatchInputError` if a cache of fixed size cannot hold vectors and text."""
    for layer in getattr(cache, "layers", ()):
        room = -1 if getattr(layer, "is_sliding", False) else getattr(layer, "max_cache_len", -1)
        if 0 <= room < needed:
            raise PatchInputError(
                f"`past_key_values` has room for {room} columns; vectors and text need {needed}. Make it longer by the "
                "number of vectors."
            )

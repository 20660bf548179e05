"""How a stack of vectors gets in front of a frozen backbone: `cached` or `concat`, exact by the same definition.

The definition, row by row and without padding: run the backbone on `concat(E(BOS), P, E(rest))` (or `concat(P, E(row))`
for rows without BOS and for `placement="before_bos"`). Each real token keeps the output at its own place, except that
BOS takes the output at the LAST vector, which is what predicts the first token of the text. Which patches make up the
stack is the business of `model.py`; where the columns of a batch go, of `layout.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel

from policy_patch.errors import PatchInputError, PositionLimitError
from policy_patch.layout import Layout, first_real_columns

# Architectures on which our tests hold both ways against the definition. Any other is held against it on a few tokens
# before it is used (`self_check.py`).
VERIFIED_MODEL_TYPES = frozenset({"llama", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral"})

_ORIGIN_ATTRIBUTE = "_policy_patch_origin"  # (origin, layout), set on a cache that begins with a stack; copied with it


@dataclass(frozen=True)
class Stack:
    """The vectors in force during one call.

    Args:
        names (`tuple[str, ...]`):
            The patches of the stack, in order.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the vectors of the patches in that order, with gradient if they train.
        placement (`str`):
            `"after_bos"` or `"before_bos"`.
    """

    names: tuple[str, ...]
    vectors: torch.Tensor
    placement: str


@dataclass(frozen=True)
class PrimedPrefix:
    """What a prefix `[BOS?][P]` left behind when it was run once with batch size 1.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, a copy of what was run.
        keys_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            For each layer, keys and values `(1, heads, length, head_dim)`.
        last_hidden_state (`torch.Tensor`):
            `(1, 1, hidden_size)`, the backbone's output at the last vector.
    """

    vectors: torch.Tensor
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    last_hidden_state: torch.Tensor


class _Call:
    """One forward or generate call through a patched model: its injection, its stack, and the layout under way."""

    def __init__(self, injection: "Injection", stack: Stack) -> None:
        self.injection = injection
        self.stack = stack
        self.layout: Layout | None = None
        self.primed: PrimedPrefix | None = None


# Per thread and per asyncio task: only a call through our own model is patched. The base itself, other wrappers on it
# and other threads see None, or their own call.
_CURRENT_CALL: ContextVar[_Call | None] = ContextVar("policy_patch_call", default=None)


class Injection:
    """Puts a stack in front of one backbone, through two hooks that do nothing outside a call of `active`.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The causal language model. Its backbone gets a forward pre-hook and a forward hook; `remove` takes them off.

    Attributes:
        verified (`bool`):
            Our tests hold this architecture against the definition.
        cacheable (`bool`):
            The `cached` way is known to be exact and may be taken.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self._base = base
        # OPT and the decoders of encoder families call the inner module past the outer one, and with it past its hooks.
        self._backbone: nn.Module = getattr(base.base_model, "decoder", base.base_model)
        config = base.config.get_text_config()
        self._bos_token_id = config.bos_token_id
        self._windowed = _has_windows(config)
        self._position_limit = learned_position_limit(base)
        self._parameters = signature(self._backbone.forward).parameters
        self.verified = config.model_type in VERIFIED_MODEL_TYPES
        self.cacheable = self.verified
        self._primed: dict[tuple, PrimedPrefix] = {}
        self._hooks = [
            self._backbone.register_forward_pre_hook(self._before, with_kwargs=True),
            self._backbone.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off the backbone and forget what was cached."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._primed.clear()

    @contextmanager
    def active(self, stack: Stack | None) -> Iterator[None]:
        """Within the context, calls of the backbone from this thread run behind `stack`, or plain if it is None.

        Raises:
            PatchInputError: the hooks were removed, so that the call would run unpatched.
        """
        if stack is not None and not self._hooks:
            raise PatchInputError(
                "This model was unloaded: its base runs without a patch again. Make a new one around the base."
            )
        token = _CURRENT_CALL.set(_Call(self, stack) if stack is not None else None)
        try:
            yield
        finally:
            _CURRENT_CALL.reset(token)

    # The two hooks

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        call = _CURRENT_CALL.get()
        if call is None or call.injection is not self:
            return None
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            self._continue(call, inputs, cache)
        else:
            self._start(call, inputs)
        return (), inputs

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        call = _CURRENT_CALL.get()
        if call is None or call.injection is not self or call.layout is None:
            return None
        layout, primed = call.layout, call.primed
        call.layout = call.primed = None
        hidden = output.last_hidden_state
        output.last_hidden_state = layout.real_hidden(hidden, primed.last_hidden_state if primed else None)
        if getattr(output, "hidden_states", None):
            output["hidden_states"] = tuple(layout.real_hidden(state, None) for state in output.hidden_states)
        if getattr(output, "attentions", None):
            output["attentions"] = tuple(layout.real_attention(weights) for weights in output.attentions)
        if getattr(output, "past_key_values", None) is not None:
            setattr(output.past_key_values, _ORIGIN_ATTRIBUTE, (self._origin(call.stack), layout))
        return output

    # The first call of a row: the prefix goes in front

    def _start(self, call: _Call, inputs: dict[str, Any]) -> None:
        """Rewrite `inputs` so that the backbone runs the rows behind the stack of `call`."""
        _refuse_unknown_inputs(inputs)
        mask, tokens = inputs.get("attention_mask"), _tokens(inputs)
        first = first_real_columns(mask, tokens)
        layout = Layout.of(call.stack.vectors.shape[0], first, self._rows_with_bos(call.stack, inputs, first))
        self._check_position_limit(layout, mask, tokens.shape[1])
        if self.cacheable and self._fits_cache(layout, inputs):
            layout = layout.cached()
        call.layout = layout
        if layout.way == "cached":
            self._start_cached(call, inputs, layout)
        else:
            self._start_concat(call, inputs, layout)
        if "position_ids" in self._parameters:
            inputs["position_ids"] = layout.positions(inputs.get("position_ids"), mask, tokens)
        inputs["attention_mask"] = layout.mask(mask)

    def _start_cached(self, call: _Call, inputs: dict[str, Any], layout: Layout) -> None:
        """Fill the (empty) cache with the prefix; cut the column that the prefix already holds."""
        call.primed = self._prime(call.stack, with_bos=layout.all_bos)
        batch = _tokens(inputs).shape[0]
        cache = inputs.get("past_key_values")
        if cache is None:
            cache = inputs["past_key_values"] = DynamicCache(config=self._base.config)
        for index, (keys, values) in enumerate(call.primed.keys_values):
            # `expand` copies nothing here, and sums the rows' gradients on the way back.
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), index)
        if layout.all_bos:  # every row's first column is its BOS, which the cache holds, or padding
            for name in ("input_ids", "inputs_embeds"):
                if inputs.get(name) is not None:
                    inputs[name] = inputs[name][:, 1:]

    def _start_concat(self, call: _Call, inputs: dict[str, Any], layout: Layout) -> None:
        """Put the vectors between the token embeddings, after each row's padding (and BOS)."""
        ids = inputs.pop("input_ids", None)
        embeds = inputs.get("inputs_embeds") if ids is None else self._base.get_input_embeddings()(ids)
        vectors = call.stack.vectors.to(device=embeds.device, dtype=embeds.dtype)
        inputs["inputs_embeds"] = layout.insert(embeds, vectors)  # (batch, num_virtual_tokens + length, hidden)

    # Every later call of the row: the cache holds the prefix already

    def _continue(self, call: _Call, inputs: dict[str, Any], cache: Cache) -> None:
        """Rewrite `inputs` for a cache that begins with a prefix."""
        origin, layout = getattr(cache, _ORIGIN_ATTRIBUTE, (None, None))
        if origin != self._origin(call.stack):
            how = "without the patch" if origin is None else "behind other patches"
            raise PatchInputError(
                f"`past_key_values` was filled {how}, and its text would stay so. Start from the whole text "
                "without a cache, or use a cache that this model returned with the same patches active."
            )
        mask, tokens = inputs.get("attention_mask"), _tokens(inputs)
        self._check_position_limit(layout, mask, cache.get_seq_length() - layout.num_virtual_tokens + tokens.shape[1])
        if "position_ids" in self._parameters:
            inputs["position_ids"] = layout.step_positions(inputs.get("position_ids"), mask, tokens.shape[1])
        inputs["attention_mask"] = layout.mask(mask)
        call.layout = layout.step()

    def _origin(self, stack: Stack) -> tuple:
        """Whose patches a cache begins with."""
        return id(self), stack.names

    # The prefix by itself

    def _prime(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        """Run the prefix once; keep the result while nothing it depends on has changed."""
        if (torch.is_grad_enabled() and stack.vectors.requires_grad) or self._base_is_sharded():
            return self._run_prefix(stack, with_bos=with_bos)
        key = (with_bos, stack.names, self._weights_key())
        primed = self._primed.get(key)
        # The numbers are compared, since a version counter misses some writes: a fused optimizer leaves it as it was.
        if primed is None or not _same(primed.vectors, stack.vectors) or self._base_trains():
            # Leaving inference mode makes tensors that later calls may use with gradients.
            with torch.inference_mode(False), torch.no_grad():
                primed = self._run_prefix(stack, with_bos=with_bos)
            self._primed = {old: value for old, value in self._primed.items() if old[2] == key[2]}
            while len(self._primed) >= 8:  # a few stacks, each with and without BOS
                self._primed.pop(next(iter(self._primed)))
            self._primed[key] = primed
        return primed

    def _run_prefix(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        embeddings = self._base.get_input_embeddings()
        table = next(embeddings.parameters())
        vectors = stack.vectors.to(table.device)
        if with_bos:
            bos = embeddings(torch.tensor([self._bos_token_id], device=table.device))
            vectors = torch.cat([bos.to(vectors.dtype), vectors])
        cache = DynamicCache()  # without the config no layer throws away what is beyond its window
        embeds = vectors.to(_embedding_dtype(embeddings, table)).unsqueeze(0)
        with self.active(None):
            output = self._backbone(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        keys_values = [(layer.keys, layer.values) for layer in cache.layers]
        return PrimedPrefix(stack.vectors.detach().clone(), keys_values, output.last_hidden_state[:, -1:])

    def _weights_key(self) -> tuple:
        """Identity of the weights the prefix was run with: in-place changes, other tensors, dtype or device."""
        return tuple((p.data_ptr(), _version(p), p.dtype, p.device) for p in self._base.parameters())

    def _base_is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed split the weights: they are at other places after each call, in each process at
        others, and a process that alone runs the prefix again would wait for the shards of the others forever."""
        return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in self._base.parameters())

    def _base_trains(self) -> bool:
        """Whether somebody made weights of the base trainable again; then they may change under our feet."""
        return any(p.requires_grad for p in self._base.parameters())

    # Which way

    def _fits_cache(self, layout: Layout, inputs: dict[str, Any]) -> bool:
        """Whether one cache can stand in front of all rows of this batch."""
        # Padding between a cached prefix and the text would count as text in a sliding window, and wherever distances
        # are counted in columns (MPT, the local layers of GPT-Neo): no configuration tells that of all architectures.
        padded_window = layout.padded and (self._windowed or not self.verified)
        # Gradient checkpointing throws caches away while it trains.
        checkpointing = self._backbone.training and getattr(self._base, "is_activation_checkpointing", False)
        return layout.uniform_bos and not padded_window and not checkpointing and not self._wants_intermediates(inputs)

    def _wants_intermediates(self, inputs: dict[str, Any]) -> bool:
        """Whether hidden states or attentions of all layers are asked for; `concat` has them for every column."""
        names = ("output_hidden_states", "output_attentions")
        return any(inputs.get(name) or getattr(self._base.config, name, False) for name in names)

    def _rows_with_bos(self, stack: Stack, inputs: dict[str, Any], first: torch.Tensor) -> torch.Tensor:
        """Return `(batch,)` bool: the row begins with BOS and the vectors go behind it."""
        if stack.placement == "before_bos" or self._bos_token_id is None:
            return torch.zeros_like(first, dtype=torch.bool)
        rows = torch.arange(first.shape[0], device=first.device)
        if inputs.get("input_ids") is not None:
            return inputs["input_ids"][rows, first] == self._bos_token_id
        embeddings = self._base.get_input_embeddings()
        bos = embeddings(torch.tensor(self._bos_token_id, device=next(embeddings.parameters()).device))
        return (inputs["inputs_embeds"][rows, first] == bos).all(-1)

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


def learned_position_limit(base: PreTrainedModel) -> int | None:
    """Return how many absolute positions `base` has learned, or None if it does not look positions up in a table."""
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    tokens = base.get_input_embeddings()
    for name, module in base.base_model.named_modules():
        is_table = isinstance(module, nn.Embedding) and module is not tokens
        if is_table and limit is not None and 0 <= module.num_embeddings - limit <= 2:  # OPT keeps two spare rows
            return limit
        if is_table and name.rsplit(".", 1)[-1] in ("wpe", "position_embeddings", "embed_positions"):
            return module.num_embeddings
    return None


def _has_windows(config: Any) -> bool:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return any(kind != "full_attention" for kind in layer_types)
    return (
        getattr(config, "sliding_window", None) is not None or getattr(config, "attention_chunk_size", None) is not None
    )


def _tokens(inputs: dict[str, Any]) -> torch.Tensor:
    """Return the ids `(batch, length)` or the embeddings `(batch, length, hidden)`, whichever was given."""
    tokens = inputs.get("input_ids")
    tokens = inputs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise PatchInputError("Neither `input_ids` nor `inputs_embeds` was given.")
    return tokens


def _refuse_unknown_inputs(inputs: dict[str, Any]) -> None:
    mask = inputs.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.ndim == 2):
        raise PatchInputError(
            "`attention_mask` must be 2-D, (batch, length), in front of a patch: a ready 4-D mask, as static caches "
            "make, has no room for the vectors. Use a dynamic cache."
        )
    cache = inputs.get("past_key_values")
    if cache is not None and not isinstance(cache, DynamicCache):
        raise PatchInputError(
            f"`past_key_values` is a {type(cache).__name__}; a patch can fill a `DynamicCache` only. Leave "
            "`cache_implementation` at its default."
        )
    if inputs.get("token_type_ids") is not None:
        raise PatchInputError("`token_type_ids` have no value for the vectors of a patch. Leave them out.")


def _embedding_dtype(embeddings: nn.Module, table: torch.Tensor) -> torch.dtype:
    """Return the dtype in which token embeddings leave the table; a quantised table still gives floats."""
    return table.dtype if table.is_floating_point() else getattr(embeddings, "compute_dtype", torch.float32)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

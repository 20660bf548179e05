"""Puts a stack of vectors in front of a frozen backbone, in one of two ways, `cached` or `concat`, both exact.

Exact means equal to this definition, row by row and without padding: run the backbone on `concat(E(BOS), P, E(rest))`
(or `concat(P, E(row))` for rows without BOS and for `placement="before_bos"`). Each real token keeps the output at its
own place, except that BOS takes the output at the LAST vector, because that one predicts the first token of the text.
`patched_model.py` decides which patches make up the stack; `layout.py` computes where the columns of a batch go.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel

from policy_patch._compat import (
    cache_argument,
    cache_of,
    forward_parameters,
    is_checkpointing,
    take_cache,
    without_cache,
)
from policy_patch.base.architecture import backbone_of, has_windows, learned_position_limit
from policy_patch.base.token_embeddings import embedded
from policy_patch.errors import PatchInputError, PatchNotAppliedError, UnsupportedModelError
from policy_patch.injection.caches import check_room, columns_in, holds_a_state, refuse_unknown_cache
from policy_patch.injection.call_inputs import (
    check_mask_of_step,
    mask_for,
    refuse_images_without_positions,
    refuse_several_texts,
    refuse_unknown_inputs,
    tokens_of,
)
from policy_patch.injection.findings import Findings
from policy_patch.injection.growing_cache import growing
from policy_patch.injection.hooks import Hook, forget_copies_of_hooks
from policy_patch.injection.layout import Layout, first_real_columns
from policy_patch.injection.lengths import (
    check_position_limit,
    check_switch_of_step,
    counts_from_zero,
    is_beyond_switch,
)
from policy_patch.injection.patched_cache import layout_of, note_origin, refuse_patched_cache
from policy_patch.injection.patched_call import CURRENT_CALL, PatchedCall
from policy_patch.injection.priming import PrimedBatch, PrimedPrefix, Primer
from policy_patch.injection.proof import Expected, not_applied
from policy_patch.injection.stacks import BatchStacks, Stack


class Injection:
    """Puts stacks in front of one backbone, through hooks that do nothing outside a call of `active`.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The causal language model. It and its backbone get a forward pre-hook and a forward hook each; `remove`
            removes them.
        findings ([`Findings`], *optional*):
            The findings of `self_check.py` about the base.

    Raises:
        UnsupportedModelError: the arguments of the backbone's `forward` cannot be inspected.
    """

    def __init__(self, base: PreTrainedModel, findings: Findings | None = None) -> None:
        self._base = base
        # OPT and the decoders of encoder families call the inner module directly, which skips hooks on the outer one.
        backbone = backbone_of(base)
        self._backbone: nn.Module = getattr(backbone, "decoder", backbone)
        self._windowed = has_windows(base.config.get_text_config())
        self._position_limit = learned_position_limit(base)
        self._parameters = tuple(forward_parameters(self._backbone))
        if not self._parameters:
            raise UnsupportedModelError(
                f"What the backbone of `base` takes cannot be seen: the `forward` of its "
                f"{type(self._backbone).__name__} has no `input_ids`. Remove the wrapper around it, or let the wrapper "
                "keep the signature (functools.wraps)."
            )
        self.cache_name = cache_argument(self._parameters)
        self.takes_positions = "position_ids" in self._parameters
        self.findings = findings or Findings()
        self._primer = Primer(base, self._backbone, lambda: self.active(None), lambda hook: isinstance(hook, Hook))
        for module in (base, self._backbone):
            forget_copies_of_hooks(module)
        self._hooks = [
            base.register_forward_pre_hook(Hook(self._before_base)),
            self._backbone.register_forward_pre_hook(Hook(self._before), with_kwargs=True),
            self._backbone.register_forward_hook(Hook(self._after), with_kwargs=True),
            base.register_forward_hook(Hook(self._after_base)),
        ]

    @property
    def is_on(self) -> bool:
        """Return whether the hooks are on the base."""
        return bool(self._hooks)

    @property
    def cacheable(self) -> bool:
        """Return whether the `cached` way may be used. Tests and benchmarks switch it off."""
        return self.findings.cacheable

    @cacheable.setter
    def cacheable(self, value: bool) -> None:
        self.findings = replace(self.findings, cacheable=value)

    def remove(self) -> None:
        """Remove the hooks from the base and delete the kept prefixes."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.forget_prefixes()

    def forget_prefixes(self) -> None:
        """Delete the kept prefixes; each runs again when it is next needed."""
        self._primer.forget()

    def primed(self, stacks: tuple[Stack, ...], *, with_bos: bool) -> list[PrimedPrefix]:
        """Return the keys, values and last output of the prefix `[BOS?][vectors]` of each stack."""
        return self._primer.prime(stacks, with_bos=with_bos)

    @contextmanager
    def active(self, stacks: BatchStacks | None) -> Iterator[BatchStacks | None]:
        """Open a context in which this thread's calls of the backbone run with `stacks`, or unpatched if it is None.

        Yields `stacks`.

        Raises:
            PatchInputError: the hooks were removed, so the call would run unpatched.
            PatchNotAppliedError: at the end of the context, no run of the backbone has proved that the vectors took
                part, or the hooks were removed meanwhile.
        """
        if not self._hooks:
            raise PatchInputError(
                "This model was unloaded: its base runs without a patch again. Make a new one around the base."
            )
        # The frame of the function with the `with`: this generator and contextlib's `__enter__` are in between.
        call = None if stacks is None else PatchedCall(self, stacks, sys._getframe(2))
        token = CURRENT_CALL.set(call)
        try:
            yield stacks
        finally:
            CURRENT_CALL.reset(token)
            if call is not None:
                call.frame = None
        if call is not None and not call.proofs:
            raise PatchNotAppliedError(
                not_applied(f"the backbone of this {type(self._base).__name__} was not seen to run")
            )
        if call is not None and not self._hooks:
            raise PatchNotAppliedError(not_applied("the model was unloaded while the call ran"))

    # The hooks

    def _call(self) -> PatchedCall | None:
        """Return the call through the patched model that the base now runs for, if any."""
        call = CURRENT_CALL.get()
        return call if call is not None and call.injection is self and call.asks() else None

    def _before_base(self, module: nn.Module, args: tuple) -> None:
        call = self._call()
        if call is not None:
            call.layout = call.expected = None
            call.proved_before = call.proofs

    def _after_base(self, module: nn.Module, args: tuple, output: Any) -> None:
        call = self._call()
        if call is not None and call.proofs == call.proved_before:
            raise PatchNotAppliedError(
                not_applied(f"a run of {type(module).__name__} went past the hooks on its backbone")
            )

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        call = self._call()
        if call is None:
            current = CURRENT_CALL.get()
            if current is None or not current.asks():
                refuse_patched_cache((*args, *kwargs.values()))
            return None
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        cache = take_cache(inputs)
        refuse_unknown_inputs(inputs)
        refuse_images_without_positions(inputs)
        call.layout = call.expected = None  # left over if the last call failed
        call.cache_is_unwanted = cache is None and inputs.get("use_cache") is False
        columns = columns_in(cache)
        if columns or holds_a_state(cache):
            self._continue(call, inputs, cache, columns)
        else:
            refuse_unknown_cache(cache)
            cache = self._start(call, inputs, cache)
        if cache is not None:
            inputs[self.cache_name or "past_key_values"] = cache
        call.expected = Expected.of(tokens_of(inputs).shape[1], cache, may_drop_cache=self._checkpoints())
        return (), inputs

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        call = self._call()
        if call is None or call.layout is None:
            return None
        layout, last, expected = call.layout, call.last_hidden_state, call.expected
        call.layout = call.last_hidden_state = call.expected = None
        returned = cache_of(output)
        expected.prove(output, returned)
        call.proofs += 1
        output.last_hidden_state = layout.real_hidden(output.last_hidden_state, last)
        if getattr(output, "hidden_states", None):
            output["hidden_states"] = tuple(layout.real_hidden(state, None) for state in output.hidden_states)
        if getattr(output, "attentions", None):
            output["attentions"] = tuple(layout.real_attention(weights) for weights in output.attentions)
        if call.cache_is_unwanted:
            return without_cache(output)
        cache = expected.cache if expected.cache is not None else returned
        if cache is not None:  # RecurrentGemma fills the given cache but returns none
            note_origin(cache, call, layout)
        return output

    # The first call of a row: the prefix goes in front

    def _start(self, call: PatchedCall, inputs: dict[str, Any], cache: Cache | None) -> Cache | None:
        """Rewrite `inputs` so that the backbone runs the rows with the stacks of `call`; return the cache to use."""
        mask, tokens = inputs.get("attention_mask"), tokens_of(inputs)
        batch, length = tokens.shape[:2]
        refuse_several_texts(inputs)
        rows = call.stacks.of_rows(batch, tokens.device)
        first = first_real_columns(mask, tokens)
        has_bos = self._rows_with_bos(call.stacks, rows, inputs, first)
        layout = Layout.of(call.stacks.longest, first, has_bos, call.stacks.missing(rows))
        if not self.findings.paddable and (layout.padded or layout.missing is not None):
            raise PatchInputError(
                f"Padding on the left, or patches of different lengths in one batch, are not exact behind a patch on a "
                f"{type(self._base).__name__}. Give rows of one length, pad on the right, or give one row at a time."
            )
        if cache is not None and mask is not None and not (mask != 0).any(-1).all():
            raise PatchInputError(
                "A row begins with a whole chunk of padding, so the start of its text is unknown. Use a "
                "`prefill_chunk_size` above the padding of the shortest row."
            )
        check_position_limit(layout, mask, length, self._position_limit)
        check_room(cache, layout.num_virtual_tokens + length)
        position_ids, switch = inputs.get("position_ids"), self.findings.length_switch
        beyond = switch is not None and is_beyond_switch(
            layout.positions(position_ids, mask, tokens),
            layout.num_virtual_tokens,
            switch,
            grows_beyond=self.findings.grows_beyond,
        )
        from_zero = counts_from_zero(position_ids, first)  # like the positions of a kept prefix
        if self._fits_cache(layout, inputs, length) and from_zero and not beyond:
            layout = layout.cached()
        if cache is not None:
            growing(cache)
        inputs["attention_mask"] = layout.mask(mask_for(cache, mask, tokens, length), length)
        if layout.way == "cached":
            cache = self._start_cached(call, inputs, cache, layout, rows)
        else:
            self._start_concat(call, inputs, layout, rows)
        if self.takes_positions:
            inputs["position_ids"] = layout.positions(position_ids, mask, tokens)
        call.layout = layout
        return cache

    def _start_cached(
        self, call: PatchedCall, inputs: dict[str, Any], cache: Cache | None, layout: Layout, rows: torch.Tensor | None
    ) -> Cache:
        """Fill the (empty) cache with the prefix; drop the BOS column of `inputs`, which the prefix already holds."""
        batch = tokens_of(inputs).shape[0]
        primed = PrimedBatch.of(self._primer, call.stacks, rows, batch, with_bos=layout.all_bos)
        call.last_hidden_state = primed.last_hidden_state
        if cache is None:
            cache = DynamicCache(config=self._base.config)
            if inputs.get("use_cache"):
                growing(cache)
        for index, (keys, values) in enumerate(primed.keys_values):
            cache.update(keys, values, index)
        if layout.all_bos:  # every row's first column is padding or its BOS, which the cache holds
            for name in ("input_ids", "inputs_embeds"):
                if inputs.get(name) is not None:
                    inputs[name] = inputs[name][:, 1:]
        return cache

    def _start_concat(
        self, call: PatchedCall, inputs: dict[str, Any], layout: Layout, rows: torch.Tensor | None
    ) -> None:
        """Put the vectors between the token embeddings, after each row's padding (and BOS)."""
        ids = inputs.pop("input_ids", None)
        embeds = inputs.get("inputs_embeds") if ids is None else self._base.get_input_embeddings()(ids)
        vectors = call.stacks.padded_vectors(rows, embeds)
        inputs["inputs_embeds"] = layout.insert(embeds, vectors)  # (batch, num_virtual_tokens + length, hidden)

    # Every later call of the row: the cache holds the prefix already

    def _continue(self, call: PatchedCall, inputs: dict[str, Any], cache: Cache, columns: int) -> None:
        """Rewrite `inputs` for a cache with that many columns, which begins with a prefix."""
        layout = layout_of(cache, call)
        call.layout = layout if layout.is_step else layout.step()
        mask, tokens = inputs.get("attention_mask"), tokens_of(inputs)
        new = tokens.shape[1]
        if new > 1:
            refuse_several_texts(inputs)
            if not self.findings.many_at_once:
                raise PatchInputError(
                    f"{new} tokens were given beside a cache; a {type(self._base).__name__} is exact only with one "
                    "token per step from its cache. Give them one by one, or the whole text without a cache."
                )
        if 0 < columns < layout.prefix_end:
            raise PatchInputError(
                f"The cache given was cut back to {columns} columns, which removed vectors in front of its text. Cut "
                "off less, or start from the whole text without a cache."
            )
        seen = max(0, columns - layout.num_virtual_tokens)
        if columns:  # the length of the text in states is unknown
            check_mask_of_step(mask, seen + new)
        check_position_limit(layout, mask, seen + new, self._position_limit)
        check_room(cache, layout.num_virtual_tokens + seen + new)
        if self.takes_positions:
            inputs["position_ids"] = layout.step_positions(inputs.get("position_ids"), mask, new, seen)
        if self.findings.length_switch is not None:
            reach = inputs.get("position_ids")
            reach = torch.arange(columns, columns + new) if reach is None else reach
            vectors, grows = layout.num_virtual_tokens, self.findings.grows_beyond
            check_switch_of_step(reach, vectors, self.findings.length_switch, grows_beyond=grows)
        if mask is not None or columns:  # states have no columns to mask
            inputs["attention_mask"] = layout.mask(mask_for(cache, mask, tokens, seen + new), seen + new)

    # Which way

    def _fits_cache(self, layout: Layout, inputs: dict[str, Any], length: int) -> bool:
        """Return whether the `cached` way is exact for this batch."""
        found = self.findings
        # Padding between vectors and text counts as text in a sliding window.
        gaps = not layout.padded or (found.gaps and not self._windowed)
        unequal = layout.missing is None or found.unequal
        nothing_left = layout.all_bos and length == 1
        fits = found.cacheable and gaps and unequal and layout.uniform_bos and not nothing_left
        return fits and not self._checkpoints() and not self._wants_intermediates(inputs)

    def _checkpoints(self) -> bool:
        """Return whether gradient checkpointing is on; its layers discard caches."""
        return self._backbone.training and is_checkpointing(self._base)

    def _wants_intermediates(self, inputs: dict[str, Any]) -> bool:
        """Return whether hidden states or attentions of all layers are requested; only `concat` has every column's."""
        names = ("output_hidden_states", "output_attentions")
        return any(inputs.get(name) or getattr(self._base.config, name, False) for name in names)

    def _rows_with_bos(
        self, stacks: BatchStacks, rows: torch.Tensor | None, inputs: dict[str, Any], first: torch.Tensor
    ) -> torch.Tensor:
        """Return `(batch,)` bool: whether the row begins with BOS and its vectors go after it."""
        numbers = torch.arange(first.shape[0], device=first.device)
        ids, has_bos = inputs.get("input_ids"), torch.zeros_like(first, dtype=torch.bool)
        tokens = (inputs["inputs_embeds"] if ids is None else ids)[numbers, first]  # (batch,) or (batch, hidden)
        for index, stack in enumerate(stacks.stacks):
            if stack.goes_after is None:
                continue
            if ids is not None:
                begins = tokens == stack.goes_after
            else:
                begins = (
                    tokens == embedded(self._base.get_input_embeddings(), [stack.goes_after]).to(tokens.device)
                ).all(-1)
            has_bos |= begins if rows is None else begins & (rows == index)
        return has_bos

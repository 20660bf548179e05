"""Runs a prefix `[BOS?][vectors]` once and keeps its keys, values and last output for as long as they are valid.

They are valid while the vectors and the state of the base (`state.py`) are unchanged; both are compared at every use.
If the state of the base is unknown, as with foreign hooks on its modules, nothing is kept and the prefix runs at every
call.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from policy_patch._compat import cache_argument, cache_of, forward_parameters
from policy_patch.base.state import BaseState, base_state
from policy_patch.base.token_embeddings import embedded
from policy_patch.injection.proof import Expected
from policy_patch.injection.stacks import BatchStacks, Stack, pad_front

# Prefixes kept at a time. On a model of 7 billion parameters without grouped heads, one of 50 vectors takes 26 MB.
MOST_KEPT = 32


@dataclass(frozen=True)
class PrimedPrefix:
    """The result of running a prefix `[BOS?][vectors]` once with batch size 1.

    Args:
        inputs (`torch.Tensor`):
            A copy of the prefix, `(num_virtual_tokens, hidden_size)`, or one row more with BOS in front.
        keys_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            For each layer, keys and values `(1, heads, length, head_dim)`. Empty for an empty prefix.
        last_hidden_state (`torch.Tensor`, *optional*):
            `(1, 1, hidden_size)`, the backbone's output at the last place. None for an empty prefix.
    """

    inputs: torch.Tensor
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    last_hidden_state: torch.Tensor | None


@dataclass(frozen=True)
class _Kept:
    """Kept prefixes, by whether BOS is in front, by patches and by BOS id; all were run on one state of the base."""

    state: BaseState
    prefixes: dict[tuple, PrimedPrefix]


class Primer:
    """Runs prefixes through one backbone and keeps the results.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The causal language model.
        backbone (`torch.nn.Module`):
            Its backbone.
        plainly (`Callable[[], AbstractContextManager]`):
            Makes a context in which calls of the backbone run without a patch.
        is_ours (`Callable[[Any], bool]`):
            Returns whether a hook belongs to this package.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        backbone: nn.Module,
        plainly: Callable[[], AbstractContextManager],
        is_ours: Callable[[Any], bool],
    ) -> None:
        self._base = base
        self._backbone = backbone
        self._plainly = plainly
        self._is_ours = is_ours
        parameters = forward_parameters(backbone)
        self._takes_positions = "position_ids" in parameters
        self._cache_name = cache_argument(parameters)
        # Replaced as a whole, never changed in place: other threads may be reading.
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """Delete everything kept."""
        self._kept = None

    def prime(self, stacks: tuple[Stack, ...], *, with_bos: bool) -> list[PrimedPrefix]:
        """Return the result of each prefix, the kept one where it is still valid.

        Raises:
            PatchNotAppliedError: the backbone returned no cache of the whole prefix.
        """
        parameters = list(self._base.parameters())
        # Dropout draws anew at every call.
        changes = self._backbone.training or are_sharded(parameters) or _train(parameters)
        embeddings = self._base.get_input_embeddings()
        state = None if changes else base_state((self._backbone, embeddings), self._is_ours)
        if state is None:
            return [self._run(stack, with_bos=with_bos) for stack in stacks]
        kept = self._kept
        if kept is None or not kept.state.same_as(state):
            kept = _Kept(state, {})
        return [self._remembered(kept.state, stack, with_bos=with_bos) for stack in stacks]

    def _remembered(self, state: BaseState, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        if _wants_gradient(stack):
            return self._run(stack, with_bos=with_bos)
        kept = self._kept
        prefixes = kept.prefixes if kept is not None and kept.state is state else {}
        key = (with_bos, stack.names, stack.bos_token_id)
        primed = prefixes.get(key)
        # The numbers are compared because the version counter misses some writes: a fused optimizer does not raise it.
        if primed is None or not _same(primed.inputs, self._inputs(stack, with_bos=with_bos)):
            primed = self._run(stack, with_bos=with_bos)
            others = [item for item in prefixes.items() if item[0] != key]
            self._kept = _Kept(state, dict([*others[max(0, len(others) - MOST_KEPT + 1) :], (key, primed)]))
        return primed

    def _run(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        if _wants_gradient(stack):
            return self._run_now(stack, with_bos=with_bos)
        # Outside inference mode, so that later calls may use the tensors in computations with gradients.
        with torch.inference_mode(False), torch.no_grad():
            return self._run_now(stack, with_bos=with_bos)

    def _run_now(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        vectors = self._inputs(stack, with_bos=with_bos)
        copy = vectors.detach().clone()
        if not len(vectors):
            return PrimedPrefix(copy, [], None)
        embeddings = self._base.get_input_embeddings()
        table = next(embeddings.parameters())
        cache = DynamicCache()  # without a config no layer discards columns beyond its window
        embeds = vectors.to(_embedding_dtype(embeddings, table)).unsqueeze(0)
        more = {self._cache_name: cache}
        if self._takes_positions:  # Qwen2-VL would continue from its last image
            more["position_ids"] = torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0)
        with self._plainly():
            expected = Expected.of(embeds.shape[1], cache, may_drop_cache=False)
            output = self._backbone(inputs_embeds=embeds, use_cache=True, **more)
            expected.prove(output, cache_of(output))
        keys_values = [(layer.keys, layer.values) for layer in cache.layers]
        return PrimedPrefix(copy, keys_values, output.last_hidden_state[:, -1:])

    def _inputs(self, stack: Stack, *, with_bos: bool) -> torch.Tensor:
        """Return the vectors, with the embedding of BOS in front if it is part of the prefix, in their own dtype."""
        embeddings = self._base.get_input_embeddings()
        vectors = stack.vectors.to(next(embeddings.parameters()).device)
        if not with_bos:
            return vectors
        return torch.cat([embedded(embeddings, [stack.bos_token_id]).to(vectors.dtype), vectors])


@dataclass(frozen=True)
class PrimedBatch:
    """The prefixes of all rows of a batch, padded to the longest with empty columns in front.

    Args:
        keys_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            For each layer, keys and values `(batch, heads, longest, head_dim)`.
        last_hidden_state (`torch.Tensor`, *optional*):
            `(1 or batch, 1, hidden_size)`, the output at each row's last place. None in an unequal batch without BOS.
    """

    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    last_hidden_state: torch.Tensor | None

    @classmethod
    def of(
        cls, primer: Primer, stacks: BatchStacks, rows: torch.Tensor | None, batch: int, *, with_bos: bool
    ) -> "PrimedBatch":
        """Prime each stack and copy its prefix to the rows that use it."""
        primed = primer.prime(stacks.stacks, with_bos=with_bos)
        if rows is None:  # `expand` copies nothing, and sums the rows' gradients on the way back
            expanded = [
                (keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1))
                for keys, values in primed[0].keys_values
            ]
            return cls(expanded, primed[0].last_hidden_state)
        length = stacks.longest + int(with_bos)
        layers = next(prefix.keys_values for prefix in primed if prefix.keys_values)
        keys_values = [
            tuple(_gathered([_part(prefix, index, part, layer) for prefix in primed], length, rows) for part in (0, 1))
            for index, layer in enumerate(layers)
        ]
        last = None
        if with_bos:  # then no prefix is empty
            last = torch.cat([prefix.last_hidden_state for prefix in primed])
            last = last.index_select(0, rows.to(last.device))
        return cls(keys_values, last)


def _part(prefix: PrimedPrefix, index: int, part: int, like: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return keys (0) or values (1) of one layer; a tensor of no columns for an empty prefix."""
    return prefix.keys_values[index][part] if prefix.keys_values else like[part][:, :, :0]


def _gathered(parts: list[torch.Tensor], length: int, rows: torch.Tensor) -> torch.Tensor:
    whole = torch.cat([pad_front(part, length, dim=2) for part in parts])  # (stacks, heads, length, head_dim)
    return whole.index_select(0, rows.to(whole.device))


def are_sharded(parameters: list[nn.Parameter]) -> bool:
    """Return whether FSDP or DeepSpeed has split the weights.

    Such weights move after each call, differently in each process. If one process alone ran the prefix again, it would
    wait for the other processes' shards forever.
    """
    return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in parameters)


def _train(parameters: list[nn.Parameter]) -> bool:
    """Return whether weights of the base were made trainable again; then they may change at any time."""
    return any(p.requires_grad for p in parameters)


def _wants_gradient(stack: Stack) -> bool:
    return torch.is_grad_enabled() and stack.vectors.requires_grad


def _embedding_dtype(embeddings: nn.Module, table: torch.Tensor) -> torch.dtype:
    """Return the dtype of the embeddings that the table returns; a quantised table also returns floats."""
    return table.dtype if table.is_floating_point() else getattr(embeddings, "compute_dtype", torch.float32)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)

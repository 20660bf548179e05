"""Runs a prefix `[BOS?][vectors]` once and keeps what it left behind while nothing it depends on has changed.

What is kept depends on the vectors and on the base's weights, their dtype and device; all of that is compared at every
use, so that a stale prefix cannot be met.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import signature

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from policy_patch.stacks import BatchStacks, Stack, pad_front

# Prefixes kept at a time. Of a model of 7 billion parameters without grouped heads one of 50 vectors takes 26 MB.
MOST_KEPT = 32


@dataclass(frozen=True)
class PrimedPrefix:
    """What a prefix `[BOS?][vectors]` left behind when it was run once with batch size 1.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, a copy of what was run.
        keys_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            For each layer, keys and values `(1, heads, length, head_dim)`. Empty for an empty prefix.
        last_hidden_state (`torch.Tensor`, *optional*):
            `(1, 1, hidden_size)`, the backbone's output at the last place. None for an empty prefix.
    """

    vectors: torch.Tensor
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    last_hidden_state: torch.Tensor | None


class Primer:
    """Runs prefixes through one backbone and remembers them.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The causal language model.
        backbone (`torch.nn.Module`):
            Its backbone.
        plainly (`Callable[[], AbstractContextManager]`):
            Makes a context in which calls of the backbone run without a patch.
    """

    def __init__(
        self, base: PreTrainedModel, backbone: nn.Module, plainly: Callable[[], AbstractContextManager]
    ) -> None:
        self._base = base
        self._backbone = backbone
        self._plainly = plainly
        self._takes_positions = "position_ids" in signature(backbone.forward).parameters
        self._bos_token_id = base.config.get_text_config().bos_token_id
        # Never changed in place, but replaced as a whole: threads read it while others add to it.
        self._kept: dict[tuple, PrimedPrefix] = {}

    def forget(self) -> None:
        """Throw away all that was kept."""
        self._kept = {}

    def prime(self, stacks: tuple[Stack, ...], *, with_bos: bool) -> list[PrimedPrefix]:
        """Return what each prefix leaves behind, from memory where it is still true."""
        parameters = list(self._base.parameters())
        # Dropout draws anew at every call.
        if self._backbone.training or are_sharded(parameters) or _train(parameters):
            return [self._run(stack, with_bos=with_bos) for stack in stacks]
        weights = _identity(parameters)
        return [self._remembered(stack, with_bos=with_bos, weights=weights) for stack in stacks]

    def _remembered(self, stack: Stack, *, with_bos: bool, weights: tuple) -> PrimedPrefix:
        if _wants_gradient(stack):
            return self._run(stack, with_bos=with_bos)
        key = (with_bos, stack.names, weights)
        primed = self._kept.get(key)
        # The numbers are compared, since a version counter misses some writes: a fused optimizer leaves it as it was.
        if primed is None or not _same(primed.vectors, stack.vectors):
            primed = self._run(stack, with_bos=with_bos)
            kept = {old: value for old, value in self._kept.items() if old[2] == weights and old != key}
            for old in list(kept)[: max(0, len(kept) - MOST_KEPT + 1)]:
                del kept[old]
            self._kept = {**kept, key: primed}
        return primed

    def _run(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        if _wants_gradient(stack):
            return self._run_now(stack, with_bos=with_bos)
        # Leaving inference mode makes tensors that later calls may use with gradients.
        with torch.inference_mode(False), torch.no_grad():
            return self._run_now(stack, with_bos=with_bos)

    def _run_now(self, stack: Stack, *, with_bos: bool) -> PrimedPrefix:
        copy = stack.vectors.detach().clone()
        if not len(stack) and not with_bos:
            return PrimedPrefix(copy, [], None)
        embeddings = self._base.get_input_embeddings()
        table = next(embeddings.parameters())
        vectors = stack.vectors.to(table.device)
        if with_bos:
            bos = embeddings(torch.tensor([self._bos_token_id], device=table.device))
            vectors = torch.cat([bos.to(vectors.dtype), vectors])
        cache = DynamicCache()  # without the config no layer throws away what is beyond its window
        embeds = vectors.to(_embedding_dtype(embeddings, table)).unsqueeze(0)
        more = {}
        if self._takes_positions:  # Qwen2-VL would count on from the image it saw last
            more["position_ids"] = torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0)
        with self._plainly():
            output = self._backbone(inputs_embeds=embeds, past_key_values=cache, use_cache=True, **more)
        keys_values = [(layer.keys, layer.values) for layer in cache.layers]
        return PrimedPrefix(copy, keys_values, output.last_hidden_state[:, -1:])


@dataclass(frozen=True)
class PrimedBatch:
    """The prefixes of all rows of a batch, shorter ones with empty columns in front.

    Args:
        keys_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            For each layer, keys and values `(batch, heads, longest, head_dim)`.
        last_hidden_state (`torch.Tensor`, *optional*):
            `(1 or batch, 1, hidden_size)`, the output at each row's last place; None without BOS in an unequal batch.
    """

    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    last_hidden_state: torch.Tensor | None

    @classmethod
    def of(
        cls, primer: Primer, stacks: BatchStacks, rows: torch.Tensor | None, batch: int, *, with_bos: bool
    ) -> "PrimedBatch":
        """Prime each of the stacks and hand its prefix to the rows behind it."""
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
        if with_bos:  # every prefix has at least its BOS
            last = torch.cat([prefix.last_hidden_state for prefix in primed])
            last = last.index_select(0, rows.to(last.device))
        return cls(keys_values, last)


def _part(prefix: PrimedPrefix, index: int, part: int, like: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return keys (0) or values (1) of one layer, of no columns for an empty prefix."""
    return prefix.keys_values[index][part] if prefix.keys_values else like[part][:, :, :0]


def _gathered(parts: list[torch.Tensor], length: int, rows: torch.Tensor) -> torch.Tensor:
    whole = torch.cat([pad_front(part, length, dim=2) for part in parts])  # (stacks, heads, length, head_dim)
    return whole.index_select(0, rows.to(whole.device))


def _identity(parameters: list[nn.Parameter]) -> tuple:
    """Identity of the weights a prefix was run with: in-place changes, other tensors, dtype or device."""
    return tuple((p.data_ptr(), _version(p), p.dtype, p.device) for p in parameters)


def are_sharded(parameters: list[nn.Parameter]) -> bool:
    """Whether FSDP or DeepSpeed split the weights: they are at other places after each call, in each process at
    others, and a process that alone runs the prefix again would wait for the shards of the others forever."""
    return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in parameters)


def _train(parameters: list[nn.Parameter]) -> bool:
    """Whether somebody made weights of the base trainable again; then they may change under our feet."""
    return any(p.requires_grad for p in parameters)


def _wants_gradient(stack: Stack) -> bool:
    return torch.is_grad_enabled() and stack.vectors.requires_grad


def _embedding_dtype(embeddings: nn.Module, table: torch.Tensor) -> torch.dtype:
    """Return the dtype in which token embeddings leave the table; a quantised table still gives floats."""
    return table.dtype if table.is_floating_point() else getattr(embeddings, "compute_dtype", torch.float32)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

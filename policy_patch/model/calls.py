"""Calls of a patched model: `forward`, `generate` and the backbone, with the active stack or with a stack for each row.

This file decides which vectors belong to which row. `policy_patch.injection` puts them in front of the input, and
`named_patches.py` holds the patches.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch._compat import (
    cache_argument,
    cache_of,
    forward_parameters,
    generation_cache_argument,
    take_cache,
)
from policy_patch.base.architecture import backbone_of
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import PatchInputError, PatchNameError
from policy_patch.injection.disabling import Disabling
from policy_patch.injection.generation import with_fitting_cache
from policy_patch.injection.inference import as_usual, leaves_only_tokens
from policy_patch.injection.injection import Injection
from policy_patch.injection.patched_cache import count_text
from policy_patch.injection.stacks import BatchStacks, Stack
from policy_patch.model.company import with_company
from policy_patch.model.named_patches import BASE_NAME

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutputWithPast


class PatchedCalls:
    """Mixin of [`PolicyPatchModel`] that runs the base with patches.

    It needs the model's `_checked_names`.
    """

    patches: nn.ParameterDict
    patch_config: dict[str, PolicyPatchConfig]
    _base_model: PreTrainedModel
    _injection: Injection
    _disabling: Disabling
    _active: tuple[str, ...]
    _loads: dict[str, int]

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        patch_names: Sequence[str | Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> "CausalLMOutputWithPast":
        """Run the base with the active stack. Takes all arguments of the base's `forward`.

        Shapes count real tokens only, never the vectors.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Token ids. Give `inputs_embeds` instead if you have embeddings.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                0 at padding, which may be left or right.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Target ids, -100 at positions without a loss.
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                The patches of each row, instead of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. Mirrors PEFT's `adapter_names`.

        Returns:
            The base's output, with `logits` of shape `(batch, length, vocabulary)`. The `attentions` keep the vectors
            among the keys, so each row of them still sums to one.

        Raises:
            PatchInputError: an argument has no meaning with a patch, or `patch_names` does not have one entry per row.
            PatchNameError: a name is not loaded.
            PositionLimitError: patch and text together are longer than the base's learned positions.
        """
        if labels is not None:
            kwargs["labels"] = labels
        cache = take_cache(kwargs)
        if cache is not None:
            kwargs[cache_argument(forward_parameters(self._base_model)) or "past_key_values"] = cache
        with self._injected(patch_names, input_ids, kwargs.get("inputs_embeds")):
            output = self._base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        count_text(cache, cache_of(output))
        return output

    def generate(self, *args: Any, patch_names: Sequence[str | Sequence[str]] | None = None, **kwargs: Any) -> Any:
        """Generate with the active stack. Arguments and result are those of the base's `generate`, with real ids only.

        If no patch is being trained and only ids are returned, it runs in torch's inference mode, which is faster.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                The patches of each row, instead of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. Give one entry per prompt, even with several answers per prompt.

        Raises:
            PatchInputError: the cache was filled without the patch, with another patch, or by another model; or
                `patch_names` does not have one entry per row.
            PatchNameError: a name is not loaded.
            PositionLimitError: patch and text together are longer than the base's learned positions.
        """
        given = (*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds")))
        cache = take_cache(kwargs)
        with self._injected(patch_names, *given) as stacks:
            if stacks is not None:
                cache, kwargs = with_fitting_cache(self._base_model, args, kwargs, cache, stacks.longest)
            inference = cache is None and leaves_only_tokens(self._base_model, self.patches.values(), args, kwargs)
            inference = inference and not self._injection.findings.stateful
            if cache is not None:
                kwargs[generation_cache_argument(self._base_model)] = cache
            with torch.inference_mode() if inference else nullcontext():
                output = self._base_model.generate(*args, **kwargs)
        count_text(cache, cache_of(output))
        return as_usual(output)

    @property
    def base_model(self) -> Any:
        """Return a callable that runs the backbone with the active stack. For the base itself use [`get_base_model`].

        Trainers of TRL call it instead of `forward`, with `input_ids` and `attention_mask`, and read
        `last_hidden_state` of shape `(batch, length, hidden)` from its result.
        """
        return self._run_backbone

    def _run_backbone(self, *args: Any, **kwargs: Any) -> Any:
        with self._injected():
            return backbone_of(self._base_model)(*args, **kwargs)

    def _injected(self, patch_names: Sequence[str | Sequence[str]] | None = None, *given: torch.Tensor | None) -> Any:
        """Return the context of one call. Its stacks stay the same, even if `set_patch` is called meanwhile.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                See `forward`.
            given (`torch.Tensor`):
                Ids or embeddings of the call, or None. They tell the number of rows, which `patch_names` must match.
        """
        stacks = self._batch_stacks(patch_names)
        rows = next((len(tokens) for tokens in given if tokens is not None), None)
        if patch_names is not None and rows not in (None, len(patch_names)):
            raise PatchInputError(
                f"`patch_names` has {len(patch_names)} entries; the batch has {rows} rows. Give one for each row, "
                f'"{BASE_NAME}" for none.'
            )
        return self._injection.active(None if self._disabling.holds() else stacks)

    def _batch_stacks(self, patch_names: Sequence[str | Sequence[str]] | None) -> BatchStacks | None:
        if patch_names is None:
            active = self._active
            return BatchStacks((with_company(self, self._stack(active)),)) if active else None
        if isinstance(patch_names, str) or not len(patch_names):
            raise PatchNameError(
                f"`patch_names` is {patch_names!r}; expected a list with one entry for each row: a name, a tuple of "
                f'names (a stack) or "{BASE_NAME}".'
            )
        of_rows = [() if entry == BASE_NAME else self._checked_names(entry) for entry in patch_names]
        different = tuple(dict.fromkeys(of_rows))
        if different == ((),):
            return None
        of_names = {names: self._stack(names) for names in different if names}
        nothing = next(iter(of_names.values())).emptied()
        stacks = tuple(of_names.get(names, nothing) for names in different)
        if len(different) == 1:
            return BatchStacks(stacks)
        return BatchStacks(stacks, tuple(different.index(names) for names in of_rows))

    def _stack(self, names: tuple[str, ...]) -> Stack:
        parts = [self.patches[name] for name in names]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts)
        loads = tuple(self._loads[name] for name in names)
        config = self.patch_config[names[0]]
        return Stack(names, vectors, config.placement, loads, config.bos_token_id)

    def disable_patch(self) -> AbstractContextManager[None]:
        """Return a context in which this model equals its base, bit for bit.

        Other threads and asyncio tasks stay patched. In a generator function the context applies while the generator's
        own code runs; code that iterates over the generator stays patched.
        """
        return self._disabling.block()

    def forget_prefixes(self) -> None:
        """Drop the stored keys and values of the prefixes, so that the next call computes them again.

        You need this only if you write to single numbers of the base's weights through `.data` or numpy: torch does
        not count such a change, and our sample of the weights may miss it.
        """
        self._injection.forget_prefixes()

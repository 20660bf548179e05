"""Calls of a patched model: `forward`, `generate` and the backbone, with the active stack or with a stack for each row.

A call only says which vectors belong to which row. How they get there is the business of `policy_patch.injection`,
which patches there are of `named_patches.py`.
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
from policy_patch.model.named_patches import BASE_NAME

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutputWithPast


class PatchedCalls:
    """Mixin of [`PolicyPatchModel`] that runs the base with patches.

    It asks the model for `_checked_names`.
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
        """Run the base with the active stack. Takes what the base's `forward` takes; counts no virtual token.

        Args:
            input_ids (`torch.LongTensor`, *optional*):
                `(batch, length)`; or give `inputs_embeds`.
            attention_mask (`torch.Tensor`, *optional*):
                `(batch, length)`, 0 at padding, which may be left or right.
            labels (`torch.LongTensor`, *optional*):
                `(batch, length)`, -100 where no loss is wanted.
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                The patches of each row, in place of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. Mirrors PEFT's `adapter_names`.

        Returns:
            The base's output with `logits` `(batch, length, vocabulary)`. `attentions` keep the vectors among the
            keys, so that they still sum to one.

        Raises:
            PatchInputError: an argument that has no meaning with a patch; more or fewer `patch_names` than rows.
            PatchNameError: a name that is not loaded.
            PositionLimitError: patch and text are longer than the positions the base has learned.
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
        """Generate with the active stack. Takes and returns what the base's `generate` does; ids are real ids only.

        With patches that do not train it runs in torch's inference mode where it returns nothing but ids.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                The patches of each row, in place of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. One entry for each prompt, also where several answers are asked for.

        Raises:
            PatchInputError: a cache that was filled without the patch, with another one, or by another model.
            PatchNameError: a name that is not loaded.
            PositionLimitError: patch and text are longer than the positions the base has learned.
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
        """The backbone as this patch sees it: a callable. For the base itself use [`get_base_model`].

        Trainers of TRL call it in place of `forward`, with `input_ids` and `attention_mask`, and read
        `last_hidden_state`, `(batch, length, hidden)`, from what it returns.
        """
        return self._run_backbone

    def _run_backbone(self, *args: Any, **kwargs: Any) -> Any:
        with self._injected():
            return backbone_of(self._base_model)(*args, **kwargs)

    def _injected(self, patch_names: Sequence[str | Sequence[str]] | None = None, *given: torch.Tensor | None) -> Any:
        """Return the context of one call. It keeps the stacks it begins with, also if `set_patch` is called meanwhile.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                As in `forward`.
            given (`torch.Tensor`):
                Ids or embeddings of the call, to check that each row has its entry.
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
            return BatchStacks((self._stack(active),)) if active else None
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
        """Within the context this model is its base, bit for bit. Other threads and asyncio tasks stay patched.

        In a generator the block holds while the generator itself runs; code that iterates over it stays patched.
        """
        return self._disabling.block()

    def forget_prefixes(self) -> None:
        """Compute the keys and values of the vectors again at the next call instead of using the kept ones.

        Needed only after a change of the base that torch does not count and a sample of its weights does not show: a
        write to single numbers through `.data` or numpy.
        """
        self._injection.forget_prefixes()

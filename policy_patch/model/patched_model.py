"""`PolicyPatchModel`: a frozen base with any number of named patches, and the stack of them that is active.

It mirrors PEFT's `PeftModel`. How vectors get in front of the base is the business of `injection.py`.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch._compat import (
    cache_argument,
    cache_of,
    forward_parameters,
    generation_cache_argument,
    register_causal_lm,
    take_cache,
)
from policy_patch.base.architecture import backbone_of
from policy_patch.base.bos import decided_bos
from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.supported import check_length, check_supported, embedding_size
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import (
    BaseMismatchError,
    ConfigError,
    PatchInputError,
    PatchNameError,
    UnsupportedModelError,
)
from policy_patch.hub.fetch import only_cached_commit
from policy_patch.injection.disabling import Disabling
from policy_patch.injection.generation import with_fitting_cache
from policy_patch.injection.inference import as_usual, leaves_only_tokens
from policy_patch.injection.patched_cache import count_text
from policy_patch.injection.self_check import checked_injection
from policy_patch.injection.stacks import BatchStacks, Stack
from policy_patch.model.delegation import BaseDelegation
from policy_patch.model.files import DEFAULT_PATCH_NAME, PatchFiles
from policy_patch.model.freezing import Freezing, looking_on
from policy_patch.model.trainer_hook import watch_trainers
from policy_patch.patch.composing import check_same_place, composed
from policy_patch.patch.vectors import initial_vectors, whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.modeling_outputs import CausalLMOutputWithPast

BASE_NAME = "__base__"  # stands for "no patch" where patches are named; no patch may be called so
_LOADS = itertools.count()  # load counter: tells a deleted patch's cache from that of a later patch of the same name
_ALLOWED_NAME = re.compile(r"[A-Za-z0-9_-]+")


def get_policy_patch_model(
    base: PreTrainedModel,
    config: PolicyPatchConfig,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    patch_name: str = DEFAULT_PATCH_NAME,
) -> "PolicyPatchModel":
    """Put a new, trainable patch in front of `base`. Mirrors PEFT's `get_peft_model`.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model. Its parameters are frozen; `unload` restores them as they were.
        config ([`PolicyPatchConfig`]):
            Length, placement and start of the patch. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Needed for `init="text"`.
        patch_name (`str`, *optional*, defaults to `"default"`):
            Name of the patch in this model.

    Returns:
        [`PolicyPatchModel`]: the patched model, with the new patch active.

    Raises:
        UnsupportedModelError: no decoder-only language model of transformers, or one on which patches are not exact.
        TokenizerRequiredError: `init="text"` without a tokenizer.
        PositionLimitError: more vectors than the base has learned positions.
        ConfigError: another hidden size than the base's.
    """
    model = PolicyPatchModel(base)
    try:
        model.add_patch(patch_name, config, tokenizer=tokenizer)
        model.set_patch(patch_name)
    except BaseException:
        model.unload()
        raise
    return model


class PolicyPatchModel(BaseDelegation, PatchFiles, nn.Module):
    """A frozen base behind a stack of patches.

    Make one with [`get_policy_patch_model`] or [`PolicyPatchModel.from_pretrained`]. Only calls through this object are
    patched: the base itself, and other wrappers around it, go on as they are.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model.

    Raises:
        UnsupportedModelError: no decoder-only language model of transformers.

    Example:

    ```python
    >>> from policy_patch import PolicyPatchConfig, get_policy_patch_model
    >>> config = PolicyPatchConfig(num_virtual_tokens=4, init="vocab")
    >>> model = get_policy_patch_model(tiny_model("llama"), config)
    >>> model.print_trainable_parameters()
    trainable params: 128 || all params: 32,224 || trainable%: 0.3972

    ```
    """

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        if isinstance(base, PolicyPatchModel):
            raise UnsupportedModelError("`base` is patched already. Add to it with `load_patch` or `add_patch`.")
        check_supported(base)
        self._freezing = Freezing(base)
        try:
            self._injection = checked_injection(base)
        except BaseException:
            self._freezing.end()
            raise
        self._base_model = base
        self.patches = nn.ParameterDict()  # name -> (num_virtual_tokens, hidden_size), fp32
        self.patch_config: dict[str, PolicyPatchConfig] = {}
        self._loads: dict[str, int] = {}
        self._sources: dict[str, str] = {}  # name -> folder, or repository and commit, that a patch was loaded from
        self._tokenizers: dict[str, Any] = {}  # name -> the tokenizer that it was made or loaded with
        self._active: tuple[str, ...] = ()
        self._disabling = Disabling()
        self.training = base.training  # the base's modules keep their own modes

    # Calls

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        patch_names: Sequence[str | Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> "CausalLMOutputWithPast":
        """Run the base behind the active stack. Takes what the base's `forward` takes; counts no virtual token.

        Args:
            input_ids (`torch.LongTensor`, *optional*):
                `(batch, length)`; or give `inputs_embeds`.
            attention_mask (`torch.Tensor`, *optional*):
                `(batch, length)`, 0 at padding, which may be left or right.
            labels (`torch.LongTensor`, *optional*):
                `(batch, length)`, -100 where no loss is wanted.
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                What each row is behind, in place of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. Mirrors PEFT's `adapter_names`.

        Returns:
            The base's output with `logits` `(batch, length, vocabulary)`. `attentions` keep the vectors among the
            keys, so that they still sum to one.

        Raises:
            PatchInputError: an argument that has no meaning in front of a patch; not one of `patch_names` for each row.
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
        """Generate behind the active stack. Takes and returns what the base's `generate` does; ids are real ids only.

        Behind patches that do not train it runs in torch's inference mode where ids are all that it returns.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                What each row is behind, in place of the active stack: a name, a tuple of names (a stack) or
                `"__base__"`. One entry for each prompt, also where several answers are asked for.

        Raises:
            PatchInputError: a cache that was filled without the patch, behind another one, or of another model.
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
        """Return the context of one call; it keeps the stacks it begins with, whatever `set_patch` does meanwhile.

        Args:
            patch_names (`Sequence[str | Sequence[str]]`, *optional*):
                As in `forward`.
            given (`torch.Tensor`):
                Ids or embeddings that come with them, to see that each row has its entry.
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
        behind = {names: self._stack(names) for names in different if names}
        nothing = next(iter(behind.values())).emptied()
        stacks = tuple(behind.get(names, nothing) for names in different)
        if len(different) == 1:
            return BatchStacks(stacks)
        return BatchStacks(stacks, tuple(different.index(names) for names in of_rows))

    def _stack(self, names: tuple[str, ...]) -> Stack:
        parts = [self.patches[name] for name in names]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts)
        loads = tuple(self._loads[name] for name in names)
        config = self.patch_config[names[0]]
        return Stack(names, vectors, config.placement, loads, config.bos_token_id)

    # Which patches are active

    @property
    def active_patches(self) -> list[str]:
        """Names of the active stack, in order."""
        return list(self._active)

    def set_patch(self, patch_name: str | Sequence[str]) -> None:
        """Make one patch active, or a stack of patches: their vectors one after the other, in the given order.

        Args:
            patch_name (`str` or `Sequence[str]`):
                A name, or names without repetition.

        Raises:
            PatchNameError: a name that is not loaded, or twice in the stack.
            ConfigError: patches of different placement in one stack.
            PositionLimitError: a stack longer than the positions the base has learned.
        """
        self._active = self._checked_names(patch_name)

    def _checked_names(self, patch_name: str | Sequence[str]) -> tuple[str, ...]:
        names = (patch_name,) if isinstance(patch_name, str) else tuple(patch_name)
        if not names or len(set(names)) != len(names):
            raise PatchNameError(f"A stack is {list(names)}; expected one name, or several different ones.")
        for name in names:
            self._check_known(name)
        check_same_place({name: self.patch_config[name] for name in names})
        check_length(self._base_model, sum(self.patches[name].shape[0] for name in names))
        return names

    def disable_patch(self) -> AbstractContextManager[None]:
        """Within the context this model is its base, bit for bit. Other threads and asyncio tasks stay patched.

        In a generator the block holds while the generator itself runs: whoever takes from it is patched as ever.
        """
        return self._disabling.block()

    def forget_prefixes(self) -> None:
        """Run the vectors through the base again at the next call, in place of what was kept of their last run.

        Needed only after a change of the base that torch does not count and a sample of its weights does not show: a
        write to single numbers through `.data` or numpy.
        """
        self._injection.forget_prefixes()

    # Patches come and go

    def add_patch(
        self, patch_name: str, config: PolicyPatchConfig, tokenizer: "PreTrainedTokenizerBase | None" = None
    ) -> None:
        """Add a new, trainable patch, not yet active. Mirrors PEFT's `add_adapter`.

        Raises:
            PatchNameError: a name that is taken or not allowed.
            ConfigError, PositionLimitError, TokenizerRequiredError: as [`get_policy_patch_model`].
        """
        hidden_size = embedding_size(self._base_model)
        if config.hidden_size not in (None, hidden_size):
            raise ConfigError(f"`hidden_size={config.hidden_size}` in the config; the base has {hidden_size}.")
        check_length(self._base_model, config.num_virtual_tokens)
        vectors = initial_vectors(config, self._base_model.get_input_embeddings(), tokenizer)
        base = self._base_model
        name_or_path = base.config._name_or_path or None
        revision = only_cached_commit(name_or_path) if config.base_model_name_or_path in (None, name_or_path) else None
        config = replace(
            config,
            hidden_size=hidden_size,
            bos_token_id=decided_bos(config, base, tokenizer),
            base_model_name_or_path=config.base_model_name_or_path or name_or_path,
            base_model_revision=config.base_model_revision or revision,
            base_fingerprint=base_fingerprint(base, tokenizer),  # now: a trainer may split the weights later
            sha256=None,
        )
        self._insert(patch_name, config, vectors, is_trainable=True, tokenizer=tokenizer)

    def compose_patch(self, patch_names: Sequence[str], patch_name: str) -> None:
        """Add a new patch that is the stack of the given ones, to be saved and shipped as one. Not yet active.

        Mirrors PEFT's `add_weighted_adapter`; the vectors are concatenated (arXiv 2511.08484), not averaged.

        Args:
            patch_names (`Sequence[str]`):
                Two or more loaded patches, in order. The order matters.
            patch_name (`str`):
                Name of the new patch.

        Raises:
            PatchNameError: an unknown name, fewer than two names, or a new name that is taken or not allowed.
            ConfigError: patches of different placement.
        """
        if isinstance(patch_names, str) or len(patch_names) < 2:
            raise PatchNameError(f"`compose_patch` needs two or more patches; got {patch_names!r}.")
        for name in patch_names:
            self._check_known(name)
        patches = [(name, self.patch_config[name], self.patches[name].detach()) for name in patch_names]
        config, vectors = composed(patches)
        check_length(self._base_model, vectors.shape[0])
        self._insert(patch_name, config, vectors, is_trainable=False)

    def delete_patch(self, patch_name: str) -> None:
        """Forget a patch. If it is part of the active stack, the rest of the stack stays active.

        Raises:
            PatchNameError: a name that is not loaded.
        """
        self._check_known(patch_name)
        self._active = tuple(name for name in self._active if name != patch_name)
        del self.patches[patch_name], self.patch_config[patch_name], self._loads[patch_name]
        self._sources.pop(patch_name, None)
        self._tokenizers.pop(patch_name, None)

    def unload(self) -> PreTrainedModel:
        """Give the base back, untouched: no hooks, the parameters trainable or frozen as they were.

        Other wrappers on the same base keep it frozen; the last one that is unloaded restores the parameters.
        """
        self._injection.remove()
        self._freezing.end()
        self._active = ()
        return self._base_model

    def _check_fits(self, config: PolicyPatchConfig, model_id: str | PathLike) -> None:
        hidden_size = embedding_size(self._base_model)
        if config.hidden_size != hidden_size:
            raise BaseMismatchError(
                f"The patch in `{model_id}` has vectors of {config.hidden_size} numbers and was made for "
                f"`{config.base_model_name_or_path}`; this base, `{self._base_model.config._name_or_path}`, has a "
                f"hidden size of {hidden_size}. Load the base that the patch was made for."
            )
        check_length(self._base_model, config.num_virtual_tokens)

    def _insert(
        self,
        name: str,
        config: PolicyPatchConfig,
        vectors: torch.Tensor,
        *,
        is_trainable: bool,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        source: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not _ALLOWED_NAME.fullmatch(name) or name == BASE_NAME:
            raise PatchNameError(f"`patch_name={name!r}`: use letters, digits, '-' and '_'; '{BASE_NAME}' is reserved.")
        if name in self.patch_config:
            raise PatchNameError(f"`patch_name={name!r}` is taken. Delete that patch first, or choose another name.")
        if hasattr(self.patches, name):  # torch keeps parameters as attributes: "keys", "train", "copy"
            raise PatchNameError(f"`patch_name={name!r}` is a word that torch uses. Choose another name.")
        self.patches[name] = nn.Parameter(vectors, requires_grad=is_trainable)
        self.patch_config[name] = config
        self._loads[name] = next(_LOADS)
        self._sources[name] = source or "made here"
        if tokenizer is not None:
            self._tokenizers[name] = tokenizer

    def _check_known(self, name: str) -> None:
        if name not in self.patch_config:
            loaded = ", ".join(self.patch_config) or "none"
            raise PatchNameError(f"No patch is called `{name}`. Loaded: {loaded}. Load it with `load_patch`.")

    # Copies, and how it is shown

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle needs. Hooks, blocks of `disable_patch` and tokenizers stay behind."""
        state = {**self.__dict__, "_tokenizers": {}, "_is_loaded": self._injection.is_on}
        del state["_injection"], state["_disabling"]
        for name in ("forward", "_original_forward"):  # a trainer's, which runs this model and not the copy
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put hooks on the base of a copy; what it can carry is checked again, the libraries may be others."""
        is_loaded = state.pop("_is_loaded")
        super().__setstate__(state)
        self._disabling = Disabling()
        self._injection = checked_injection(self._base_model)
        if not is_loaded:
            self._injection.remove()

    def __repr__(self) -> str:
        """Return the base, the active stack and the other patches, each with its version and where it is from."""
        base = self._base_model
        revision = only_cached_commit(base.config._name_or_path)
        lines = [
            f"base: {type(base).__name__} {base.config._name_or_path!r}{f' at {revision[:12]}' if revision else ''}"
        ]
        lines += [f"active: {self._described(name)}" for name in self._active] or ["active: none"]
        lines += [f"loaded: {self._described(name)}" for name in self.patch_config if name not in self._active]
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"

    def _described(self, name: str) -> str:
        config = self.patch_config[name]
        risk = f", {config.risk}" if config.risk else ""
        return f"{name} {config.patch_version} ({config.num_virtual_tokens} vectors{risk}; {self._sources[name]})"

    # Parameters

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "PolicyPatchModel":
        """Move or cast the base, as `to` and `half` do. The vectors move along, and keep their fp32."""
        before = {name: vectors.data for name, vectors in self.patches.items()}
        super()._apply(fn, recurse)
        for name, vectors in self.patches.items():
            if vectors.dtype != before[name].dtype:
                vectors.data = before[name].to(vectors.device)
        return self

    def frozen_copy(self) -> "PolicyPatchModel":
        """Return a second wrapper on the same base with copies of the active patches that nothing will change.

        It costs the memory of the vectors alone: the base is shared. DPO's reference policy is one.
        """
        with looking_on():
            copy = PolicyPatchModel(self._base_model)
        for name in self._active:
            vectors = whole(self.patches[name]).detach().clone()
            copy._insert(name, self.patch_config[name], vectors, is_trainable=False)
        copy._active = self._active
        return copy

    def get_base_model(self) -> PreTrainedModel:
        """Return the base, unpatched. It is the very object that was given."""
        return self._base_model

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return the number of trainable parameters and of all parameters."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print the number of trainable parameters in PEFT's words."""
        trainable, total = self.get_nb_trainable_parameters()
        share = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")  # noqa: T201


register_causal_lm(PolicyPatchModel.__name__)
watch_trainers(lambda model: isinstance(model, PolicyPatchModel))

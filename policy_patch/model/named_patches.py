"""The patches of a patched model by name: added, composed, deleted, and which of them are active.

What a call does with the active ones is the business of `calls.py`; files and the Hub of `files.py`.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch.base.bos import decided_bos
from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.supported import check_length, embedding_size
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, ConfigError, PatchNameError
from policy_patch.hub.fetch import only_cached_commit
from policy_patch.patch.composing import check_same_place, composed
from policy_patch.patch.vectors import initial_vectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE_NAME = "__base__"  # stands for "no patch" where patches are named; no patch may be called so
_LOADS = itertools.count()  # load counter: tells a deleted patch's cache from that of a later patch of the same name
_ALLOWED_NAME = re.compile(r"[A-Za-z0-9_-]+")


class NamedPatches:
    """Mixin of [`PolicyPatchModel`] that holds its patches by name, and the stack of them that is active."""

    patches: nn.ParameterDict  # name -> (num_virtual_tokens, hidden_size), fp32
    patch_config: dict[str, PolicyPatchConfig]
    _base_model: PreTrainedModel
    _active: tuple[str, ...]
    _loads: dict[str, int]  # name -> a number that no other patch of this process has
    _sources: dict[str, str]  # name -> folder, or repository and commit, that a patch was loaded from
    _tokenizers: dict[str, Any]  # name -> the tokenizer that it was made or loaded with

    # Which are active

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

    # They come and go

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

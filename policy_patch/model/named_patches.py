"""The named patches of a patched model: adds, composes, activates and deletes them.

`calls.py` runs the base with the active patches; `files.py` loads, saves and publishes patches.
"""

import itertools
import re
from collections.abc import Callable, Sequence
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
from policy_patch.model.scan_hook import check_stack_scanned
from policy_patch.patch.composing import composed
from policy_patch.patch.folder import patch_hash
from policy_patch.patch.stack_check import (
    Broken,
    check_on_conflict,
    check_same_place,
    check_stack,
    has_rules,
    member,
)
from policy_patch.patch.vectors import initial_vectors
from policy_patch.trust.stack_policy import on_conflict_in_force

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE_NAME = "__base__"  # means "no patch" in a list of patch names; no patch may have this name
_LOADS = itertools.count()  # load counter: tells a deleted patch's cache from that of a later patch of the same name
_MADE_HERE = "made here"
_ALLOWED_NAME = re.compile(r"[A-Za-z0-9_-]+")


def new_load() -> int:
    """Return the next load counter."""
    return next(_LOADS)


class NamedPatches:
    """Mixin of [`PolicyPatchModel`] that holds its patches by name, and the active stack."""

    patches: nn.ParameterDict  # name -> (num_virtual_tokens, hidden_size), fp32
    patch_config: dict[str, PolicyPatchConfig]
    _base_model: PreTrainedModel
    _active: tuple[str, ...]
    _loads: dict[str, int]  # name -> load counter, which differs for every patch of this process
    _sources: dict[str, str]  # name -> folder, or repository and commit, that a patch was loaded from
    _origins: dict[str, tuple[str | None, str | None]]  # name -> repository and commit that a patch was loaded from
    _on_conflict: str
    _policies: list[Any]  # the policies that patches were loaded under
    _on_proved_base: set[str]  # patches whose base was proved to be theirs when they were loaded
    _scanned_stacks: set[Any]  # stacks that were scanned, or that no policy asked to scan
    _tokenizers: dict[str, Any]  # name -> the tokenizer that the patch was made or loaded with

    # The active stack

    @property
    def active_patches(self) -> list[str]:
        """Return the names of the active stack, in order."""
        return list(self._active)

    @property
    def on_conflict(self) -> str:
        """What follows if a stack breaks a rule of its patches: `"warn"`, `"refuse"` or `"ignore"`.

        A rule is a conflict, a required order, or a measurement that the stack makes a risk worse. It counts for
        `set_patch`, `patch_names=` and `compose_patch`, unless these say otherwise. If a policy in force refuses such
        stacks, they are refused whatever this says.
        """
        return self._on_conflict

    @on_conflict.setter
    def on_conflict(self, value: str) -> None:
        self._on_conflict = check_on_conflict(value)

    def set_patch(self, patch_name: str | Sequence[str], *, on_conflict: str | None = None) -> None:
        """Activate one patch, or a stack of patches. The vectors of a stack are concatenated in the given order.

        Args:
            patch_name (`str` or `Sequence[str]`):
                A name, or several different names.
            on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*):
                What follows if the stack breaks a rule of its patches. Defaults to the model's `on_conflict`, which is
                `"warn"`: a `PatchConflictWarning`.

        Raises:
            PatchNameError: a name is not loaded, or occurs twice in the stack.
            PatchConflictError: a rule is broken, and `on_conflict` is `"refuse"`.
            HostilePatchError, TokenizerRequiredError: a policy in force requires a scan, and the stack does not pass
                it, or no patch was loaded with `tokenizer=`.
            ConfigError: the patches of the stack have different placements.
            PositionLimitError: the stack is longer than the base's learned positions.
        """
        self._active = self._checked_names(patch_name, on_conflict)

    def _checked_names(self, patch_name: str | Sequence[str], on_conflict: str | None = None) -> tuple[str, ...]:
        names = (patch_name,) if isinstance(patch_name, str) else tuple(patch_name)
        if not names or len(set(names)) != len(names):
            raise PatchNameError(f"The stack is {list(names)}; expected one name, or several different ones.")
        for name in names:
            self._check_known(name)
        check_same_place({name: self.patch_config[name] for name in names})
        self.check_stack(names, on_conflict=on_conflict)
        check_stack_scanned(self, names)
        check_length(self._base_model, sum(self.patches[name].shape[0] for name in names))
        return names

    def check_stack(self, patch_names: Sequence[str], *, on_conflict: str | None = None) -> list[Broken]:
        """Return the rules of its patches that a stack breaks, after a warning for each or an error for all.

        Args:
            patch_names (`Sequence[str]`):
                Loaded patches, in order.
            on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*):
                As in [`set_patch`].

        Raises:
            PatchConflictError: a rule is broken, and `on_conflict` is `"refuse"`.
            PatchNameError: a name is not loaded.
        """
        for name in patch_names:
            self._check_known(name)
        if not any(has_rules(self.patch_config[name]) for name in patch_names):
            return []
        origins = self._origins
        members = [member(name, self.patch_config[name], origins.get(name, (None, None))) for name in patch_names]
        return check_stack(members, on_conflict=self._in_force(on_conflict))

    def _in_force(self, on_conflict: str | None) -> Callable[[], str]:
        """Return a function that says what follows from a broken rule; policies are read only if one is broken."""
        asked = check_on_conflict(on_conflict or self._on_conflict)
        return lambda: on_conflict_in_force(asked, self._policies)

    def patch_identities(self, patch_names: Sequence[str]) -> dict[str, dict[str, str | None]]:
        """Return which patches these are: `patch_version`, `sha256` of the tensor file, repository `id` and `commit`.

        The hash is that of the vectors as they are now; repository and commit are None for a patch from a folder.

        Raises:
            PatchNameError: a name is not loaded.
        """
        found = {}
        for name in patch_names:
            self._check_known(name)
            config, (repo_id, commit) = self.patch_config[name], self._origins.get(name, (None, None))
            sha256 = patch_hash(config, self.patches[name].detach())
            found[name] = {"patch_version": config.patch_version, "sha256": sha256, "id": repo_id, "commit": commit}
        return found

    # Adding and deleting

    def add_patch(
        self, patch_name: str, config: PolicyPatchConfig, tokenizer: "PreTrainedTokenizerBase | None" = None
    ) -> None:
        """Add a new, trainable patch. It is not active yet. Mirrors PEFT's `add_adapter`.

        Args:
            patch_name (`str`):
                Name of the patch in this model.
            config ([`PolicyPatchConfig`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
                See [`get_policy_patch_model`].

        Raises:
            PatchNameError: the name is taken or not allowed.
            ConfigError, PositionLimitError, TokenizerRequiredError: see [`get_policy_patch_model`].
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
            base_fingerprint=base_fingerprint(base, tokenizer),  # computed now: a trainer may shard the weights later
            sha256=None,
        )
        self._insert(patch_name, config, vectors, is_trainable=True, tokenizer=tokenizer)

    def compose_patch(self, patch_names: Sequence[str], patch_name: str, *, on_conflict: str | None = None) -> None:
        """Make one new patch out of a stack, which can be saved and published as one. It is not active yet.

        Mirrors PEFT's `add_weighted_adapter`, but the vectors are concatenated (arXiv 2511.08484), not averaged.

        Args:
            patch_names (`Sequence[str]`):
                Two or more loaded patches. Their order matters.
            patch_name (`str`):
                Name of the new patch.
            on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*):
                As in [`set_patch`].

        Raises:
            PatchConflictError: a rule of a patch is broken, and `on_conflict` is `"refuse"`.
            PatchNameError: a name is not loaded, there are fewer than two names, or the new name is taken or not
                allowed.
            ConfigError: the patches have different placements.
            PositionLimitError: the new patch is longer than the base's learned positions.
        """
        if isinstance(patch_names, str) or len(patch_names) < 2:
            raise PatchNameError(f"`compose_patch` needs two or more patches; got {patch_names!r}.")
        for name in patch_names:
            self._check_known(name)
        patches = [(name, self.patch_config[name], self.patches[name].detach()) for name in patch_names]
        config, vectors = composed(patches, origins=self._origins, on_conflict=self._in_force(on_conflict))
        check_length(self._base_model, vectors.shape[0])
        self._insert(patch_name, config, vectors, is_trainable=False)

    def delete_patch(self, patch_name: str) -> None:
        """Remove a patch from this model. If it is part of the active stack, the rest of the stack stays active.

        Raises:
            PatchNameError: the name is not loaded.
        """
        self._check_known(patch_name)
        self._active = tuple(name for name in self._active if name != patch_name)
        del self.patches[patch_name], self.patch_config[patch_name], self._loads[patch_name]
        self._sources.pop(patch_name, None)
        self._origins.pop(patch_name, None)
        self._tokenizers.pop(patch_name, None)
        self._on_proved_base.discard(patch_name)

    def _check_fits(self, config: PolicyPatchConfig, model_id: str | PathLike) -> None:
        hidden_size = embedding_size(self._base_model)
        if config.hidden_size != hidden_size:
            raise BaseMismatchError(
                f"The patch in `{model_id}` has vectors of {config.hidden_size} numbers each and was made for "
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
        origin: tuple[str | None, str | None] = (None, None),
    ) -> None:
        if not isinstance(name, str) or not _ALLOWED_NAME.fullmatch(name) or name == BASE_NAME:
            raise PatchNameError(f"`patch_name={name!r}`: use letters, digits, '-' and '_'; '{BASE_NAME}' is reserved.")
        if name in self.patch_config:
            raise PatchNameError(f"`patch_name={name!r}` is taken. Delete that patch first, or choose another name.")
        if hasattr(self.patches, name):  # torch keeps parameters as attributes: "keys", "train", "copy"
            raise PatchNameError(f"`patch_name={name!r}` is a name that torch reserves. Choose another name.")
        self.patches[name] = nn.Parameter(vectors, requires_grad=is_trainable)
        self.patch_config[name] = config
        self._loads[name] = new_load()
        self._sources[name] = source or _MADE_HERE
        self._origins[name] = origin
        if tokenizer is not None:
            self._tokenizers[name] = tokenizer

    def _origin_is_here(self, name: str) -> bool:
        """Whether a patch was made in this process, not loaded."""
        return self._sources[name] == _MADE_HERE

    def _check_known(self, name: str) -> None:
        if name not in self.patch_config:
            loaded = ", ".join(self.patch_config) or "none"
            raise PatchNameError(
                f"No patch named `{name}` is loaded. Loaded: {loaded}. Load it with `load_patch`; in a command, give "
                "it among the patches."
            )

"""`PolicyPatchModel`: a frozen base with any number of named patches, some of them active as a stack.

It mirrors PEFT's `PeftModel`. This file makes, copies, prints and unloads it. `named_patches.py` holds the patches,
`calls.py` has `forward` and `generate`, `files.py` loads and saves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch._compat import register_causal_lm
from policy_patch.base.supported import check_supported
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import UnsupportedModelError
from policy_patch.hub.fetch import only_cached_commit
from policy_patch.hub.named_patch import NamedPatch
from policy_patch.injection.disabling import Disabling
from policy_patch.injection.self_check import checked_injection
from policy_patch.model.calls import PatchedCalls
from policy_patch.model.delegation import BaseDelegation
from policy_patch.model.files import PatchFiles
from policy_patch.model.freezing import Freezing, looking_on
from policy_patch.model.ids import DEFAULT_PATCH_NAME
from policy_patch.model.named_patches import NamedPatches
from policy_patch.model.trainer_hook import watch_trainers
from policy_patch.patch.vectors import whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def get_policy_patch_model(
    base: PreTrainedModel,
    config: PolicyPatchConfig,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    patch_name: str = DEFAULT_PATCH_NAME,
) -> "PolicyPatchModel":
    """Wrap `base` and add a new, trainable patch. Mirrors PEFT's `get_peft_model`.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model. Its parameters are frozen; `unload` restores their `requires_grad`.
        config ([`PolicyPatchConfig`]):
            Length, placement and initial vectors of the patch. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Needed for `init="text"`.
        patch_name (`str`, *optional*, defaults to `"default"`):
            Name of the patch in this model.

    Returns:
        [`PolicyPatchModel`]: the patched model, with the new patch active.

    Raises:
        UnsupportedModelError: `base` is not a decoder-only language model of transformers, or patches on it are not
            exact.
        TokenizerRequiredError: `init="text"` was given without a tokenizer.
        PositionLimitError: the patch is longer than the base's learned positions.
        ConfigError: the configuration has another hidden size than the base.
        PatchNameError: the name is not allowed.
    """
    model = PolicyPatchModel(base)
    try:
        model.add_patch(patch_name, config, tokenizer=tokenizer)
        model.set_patch(patch_name)
    except BaseException:
        model.unload()
        raise
    return model


class PolicyPatchModel(BaseDelegation, PatchedCalls, NamedPatches, PatchFiles, nn.Module):
    """A frozen base with a stack of patches in front of its input.

    Make it with [`get_policy_patch_model`] or [`PolicyPatchModel.from_pretrained`]. Only calls through this object are
    patched. Calls of the base itself, and of other wrappers around it, do not change.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model.

    Raises:
        UnsupportedModelError: `base` is not a decoder-only language model of transformers, or patches on it are not
            exact.

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
        self._origins: dict[str, tuple[str | None, str | None]] = {}  # name -> repository and commit, None for a folder
        self._on_conflict = "warn"
        self._policies: list[Any] = []  # the policies that patches were loaded under
        self._on_proved_base: set[str] = set()
        self._scanned_stacks: set[Any] = set()
        self._tokenizers: dict[str, Any] = {}  # name -> the tokenizer that the patch was made or loaded with
        self._active: tuple[str, ...] = ()
        self._disabling = Disabling()
        self.training = base.training  # the base's modules keep their own modes

    def unload(self) -> PreTrainedModel:
        """Return the base as it was: without hooks, and with the earlier `requires_grad` of its parameters.

        Other wrappers on the same base keep it frozen; the last one to be unloaded restores `requires_grad`.
        """
        self._injection.remove()
        self._freezing.end()
        self._active = ()
        return self._base_model

    @property
    def patch_sources(self) -> dict[str, str]:
        """The folder, or the repository and commit, that each patch was loaded from; `"made here"` for the others."""
        return dict(self._sources)

    @property
    def patch_facts(self) -> list[dict[str, Any]]:
        """Which patches are active, in order, as plain values: for the answers and the log of a server.

        Each has the keys of [`~policy_patch.hub.named_patch.NamedPatch.facts`]: `name`, `version`, `risk`,
        `repository` and `commit` (None for a folder), `sha256` of the tensor file, and `num_virtual_tokens`.
        """
        found = []
        for name in self._active:
            config, vectors, (repo_id, commit) = self.patch_config[name], self.patches[name], self._origins[name]
            found.append(NamedPatch(name, config, whole(vectors).detach().cpu(), repo_id, commit).facts())
        return found

    # Copying and printing

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle, without hooks, open `disable_patch` contexts and tokenizers."""
        state = {**self.__dict__, "_tokenizers": {}, "_is_loaded": self._injection.is_on}
        del state["_injection"], state["_disabling"]
        for name in ("forward", "_original_forward"):  # set by a trainer: they would run this model, not the copy
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Add hooks to the base of a copy. The base is checked again, because library versions may differ."""
        is_loaded = state.pop("_is_loaded")
        super().__setstate__(state)
        self._disabling = Disabling()
        self._injection = checked_injection(self._base_model)
        if not is_loaded:
            self._injection.remove()

    def __repr__(self) -> str:
        """Return the base, the active stack and the other patches, each with its version and its source."""
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
        """Move or cast the base, as `to` and `half` do. The vectors are moved too, but stay in fp32."""
        before = {name: vectors.data for name, vectors in self.patches.items()}
        super()._apply(fn, recurse)
        for name, vectors in self.patches.items():
            if vectors.dtype != before[name].dtype:
                vectors.data = before[name].to(vectors.device)
        return self

    def frozen_copy(self) -> "PolicyPatchModel":
        """Return a second wrapper on the same base, with frozen copies of the active patches.

        It needs memory for the vectors only, because both wrappers share the base. DPO's reference policy is made so.
        """
        with looking_on():
            copy = PolicyPatchModel(self._base_model)
        for name in self._active:
            vectors = whole(self.patches[name]).detach().clone()
            copy._insert(name, self.patch_config[name], vectors, is_trainable=False)
        copy._active = self._active
        return copy

    def get_base_model(self) -> PreTrainedModel:
        """Return the unpatched base, which is the object that was given."""
        return self._base_model

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return the number of trainable parameters and of all parameters."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print the number of trainable parameters, in PEFT's format."""
        trainable, total = self.get_nb_trainable_parameters()
        share = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")  # noqa: T201


register_causal_lm(PolicyPatchModel.__name__)
watch_trainers(lambda model: isinstance(model, PolicyPatchModel))

"""`PolicyPatchLM`: lets lm-evaluation-harness (lm-eval) measure a patched model, to show what a patch costs.

lm-eval provides tasks, batches and metrics. This file only makes sure that each row begins as it did when the patch was
trained. The class is created on first use, because it needs `lm_eval`.
"""

import os
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import EvaluationError, ModelLoadError, PatchNameError, PositionLimitError
from policy_patch.extra import import_extra
from policy_patch.hub.opening import open_patch
from policy_patch.model.ids import distinct_names
from policy_patch.model.named_patches import BASE_NAME
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.folder import patch_hash

MODEL_NAME = "policy-patch"  # as lm-eval's `--model`


def __getattr__(name: str) -> Any:
    if name != "PolicyPatchLM":
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return _policy_patch_lm()


def register_policy_patch_lm() -> None:
    """Make lm-eval know `model="policy-patch"` in this process. It finds its models in a table of its own.

    lm-eval after 0.4.13 also reads the entry points `lm_eval.models` of other packages
    (https://github.com/EleutherAI/lm-evaluation-harness/pull/4013); remove this when no older one is supported.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    _lm_eval("lm_eval.models")  # first: it fills the table only if that is empty
    registry = _lm_eval("lm_eval.api.registry").model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=f"{__name__}:PolicyPatchLM")


@cache
def _policy_patch_lm() -> type:
    """Return the class `PolicyPatchLM`, made once.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    parent = _lm_eval("lm_eval.models.huggingface").HFLM
    return type("PolicyPatchLM", (PatchedRows, parent), {"__module__": __name__, "__doc__": PatchedRows.__doc__})


def _lm_eval(module: str) -> Any:
    return import_extra(module, "lm-eval[hf]", "lm-eval", "Measuring a patch with lm-evaluation-harness")


class PatchedRows:
    """Runs lm-eval's `HFLM` with a patch. Written for lm-eval 0.4.13.

    If the tokenizer adds BOS to texts, each row begins with exactly one BOS. lm-eval omits BOS when it cuts a context
    to length and in the later windows of `loglikelihood_rolling`, and doubles it in the first window
    (https://github.com/EleutherAI/lm-evaluation-harness/issues/2382 and 3333). Use `patch="__base__"` to measure the
    base in the same way.

    Args:
        pretrained (`str`, [`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            Hub id, folder or loaded model of the base; or a patched model, which is measured with the patches that are
            active at each call. A loaded model is put in evaluation mode.
        patch (`str`, `os.PathLike` or a sequence of them, *optional*):
            Folder of a saved patch, or a repository on the Hub, optionally with a version: `"org/tox-patch@v1.2.0"`.
            Several patches form a stack, in the given order; in one string, `"+"` separates them. `"__base__"` stands
            for no patch. Not allowed with a patched model.
        allow_base_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a base that was fine-tuned after the patch was trained.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to the base's tokenizer. A tokenizer object is not changed.
        settings (*optional*):
            Other arguments of `HFLM`: `batch_size`, `device`, `dtype`, `max_length`, ... `max_length` counts tokens of
            text only. It defaults to the base's limit less the number of vectors; set it to measure base and patch on
            equal windows.

    Raises:
        EvaluationError: no patch is given or active, or a patch is given for a model that has one already.
        ModelLoadError: the base cannot be loaded.
        PatchNotFoundError, ConfigError, PatchFileError, BaseMismatchError, HubError, UnsupportedModelError: as
            [`PolicyPatchModel.from_pretrained`].
        PositionLimitError: the vectors leave no room for text.

    Example:

    ```python
    from lm_eval import simple_evaluate
    from policy_patch.evaluation.lm_eval_model import PolicyPatchLM

    model = PolicyPatchLM("org/model", "org/tox-patch@v1.0.0", batch_size=8, device="cuda")
    simple_evaluate(model=model, tasks=["hellaswag"])["results"]
    ```
    """

    def __init__(
        self,
        pretrained: Any,
        patch: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        allow_base_mismatch: bool = False,
        tokenizer: Any = None,
        **settings: Any,
    ) -> None:
        ids = _patch_ids(pretrained, patch)
        pinned = _pinned(ids)  # first, because loading a base can take minutes
        patched = isinstance(pretrained, PolicyPatchModel)
        try:
            with loading():
                super().__init__(
                    pretrained.get_base_model() if patched else pretrained,
                    tokenizer=tokenizer if isinstance(tokenizer, str) else deepcopy(tokenizer),  # gets a pad token
                    **settings,
                )
        except (OSError, ValueError) as error:
            raise ModelLoadError(
                f"lm-eval cannot load the base `{_name_of(pretrained)}`: {str(error).splitlines()[0]}"
            ) from error
        check_has_values(self._model, f"the base `{_name_of(pretrained)}`")
        self._patch_ids = dict(zip(distinct_names(ids), ids))
        if patched:
            self._model = pretrained
        elif ids:
            self._model = PolicyPatchModel.from_pretrained(
                self._model,
                pinned,
                list(self._patch_ids),
                tokenizer=self.tokenizer,
                allow_base_mismatch=allow_base_mismatch,
            )
        self._model.eval()
        self._in_rolling = False
        self._bos = self._added_bos()
        if self.max_length < 1:
            raise PositionLimitError(
                f"{self.num_virtual_tokens} vectors leave no room for text in the base's "
                f"{self.max_length + self.num_virtual_tokens} positions."
            )

    # Lengths and patches

    @property
    def num_virtual_tokens(self) -> int:
        """Number of vectors of the active stack; 0 without a patch."""
        return sum(self._model.patches[name].shape[0] for name in self._active())

    @property
    def max_length(self) -> int:
        """Most tokens of text in a row: the given limit, or the base's limit less the number of vectors."""
        return self._max_length or super().max_length - self.num_virtual_tokens

    def get_model_info(self) -> dict[str, Any]:
        """Return the description of the model that lm-eval stores under `config`, with the patches and their hashes."""
        patches = [self._patch_info(name) for name in self._active()]
        label = " + ".join([_name_of(self.pretrained), *(one["patch"] for one in patches)])
        return {**super().get_model_info(), "model": f"{MODEL_NAME} ({label})", "patches": patches}

    def _patch_info(self, name: str) -> dict[str, Any]:
        config = self._model.patch_config[name]
        return {
            "patch": os.fspath(self._patch_ids.get(name, name)),
            "patch_version": config.patch_version,
            "risk": config.risk,
            "placement": config.placement,
            "num_virtual_tokens": self._model.patches[name].shape[0],
            "sha256": patch_hash(config, self._model.patches[name]),
        }

    def _active(self) -> list[str]:
        return self._model.active_patches if isinstance(self._model, PolicyPatchModel) else []

    # One BOS at the start of each row

    def _added_bos(self) -> int | None:
        """Return the id of the BOS that the tokenizer adds to a text.

        None if it adds none, or if `prefix_token_id` asks for another token.
        """
        bos = self.tokenizer.bos_token_id
        return bos if self.prefix_token_id == bos and self.tok_encode("a")[:1] == [bos] else None

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text, as `HFLM` does.

        In `loglikelihood_rolling` no BOS is added: `HFLM` puts one before the first window, and would score a second.
        """
        if self._in_rolling and self._bos is not None and add_special_tokens is None:
            add_special_tokens = False
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **kwargs)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each whole text, window by window, as `HFLM` does."""
        self._in_rolling = True
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self._in_rolling = False

    def _loglikelihood_tokens(self, requests: list[tuple], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        if self._bos is not None:
            requests = [
                (key, self._with_bos(context, self.max_length + 1 - len(continuation)), continuation)
                for key, context, continuation in requests
            ]
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _with_bos(self, context: list[int], room: int) -> list[int]:
        """Return BOS and as many of the last tokens of `context` as fit in `room`, BOS included."""
        text = context[1:] if context[:1] == [self._bos] else context
        return [self._bos, *text[max(0, len(text) - max(0, room - 1)) :]]

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Any, Any]:
        """Return ids and mask `(batch, length)` int64, as `HFLM` does. A row that was cut begins with BOS again."""
        ids, mask = super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        if self._bos is not None and left_truncate_len is not None and ids.shape[1] == left_truncate_len:
            full = mask[:, 0] == 1
            ids[full, 0] = self._bos  # already BOS, unless the row was cut
        return ids, mask


def _patch_ids(pretrained: Any, patch: Any) -> list[str | os.PathLike]:
    """Return the ids of the patches that `patch` names; an empty list for the base and for a patched model.

    Raises:
        EvaluationError: no patch is given or active, or a patch is given for a model that has one already.
        PatchNameError: `patch` is neither a folder nor a Hub id, nor several of them.
    """
    if isinstance(pretrained, PolicyPatchModel):
        if patch is not None:
            raise EvaluationError(
                f"`pretrained` is patched already, but `patch={patch!r}` was given, too. Load that patch with "
                "`load_patch`, activate it with `set_patch`, and leave out `patch`."
            )
        if not pretrained.active_patches:
            raise EvaluationError("No patch of `pretrained` is active. Activate one with `set_patch`.")
        return []
    if patch is None:
        raise EvaluationError(
            f"`patch` is missing. Give a folder or a Hub id, or `patch={BASE_NAME}` to measure the base alone."
        )
    if patch == BASE_NAME:
        return []
    if isinstance(patch, str) and not os.path.isdir(patch):
        patch = patch.split("+")
    ids = [patch] if isinstance(patch, str | os.PathLike) else list(patch)
    if not ids or not all(isinstance(one, str | os.PathLike) and os.fspath(one) for one in ids):
        raise PatchNameError(f"`patch={patch!r}`: expected a folder or a Hub id, or several for a stack: `a+b`.")
    return ids


def _pinned(ids: list[str | os.PathLike]) -> list[str]:
    """Return the ids with the current commit of each repository. Each patch is read, so that a damaged one fails here.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError, HubError: a patch cannot be found, fetched or read.
    """
    locations = [open_patch(one).location for one in ids]
    return [f"{one.repo_id}@{one.commit}" if one.commit else str(one.folder) for one in locations]


def _name_of(pretrained: Any) -> str:
    return pretrained if isinstance(pretrained, str) else pretrained.name_or_path or type(pretrained).__name__

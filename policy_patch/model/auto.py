"""`AutoPolicyPatchModel`: loads a patch and the base that the patch names, in one call.

`patched_model.py` has the class that it returns.
"""

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from policy_patch.base.loading import load_pretrained
from policy_patch.errors import ModelLoadError, PatchNameError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.opening import open_patch
from policy_patch.model.ids import ids_of
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.privacy.local_names import lab_folder
from policy_patch.trust.policy_file import PatchPolicy


class AutoPolicyPatchModel:
    """Loads a patch together with its base. Mirrors PEFT's `AutoPeftModelForCausalLM`."""

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | PathLike | Sequence[str | PathLike],
        patch_name: str | Sequence[str] | None = None,
        *,
        is_trainable: bool = False,
        tokenizer: Any = None,
        allow_base_mismatch: bool = False,
        base_probe: bool = True,
        allow_large_vectors: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        on_conflict: str = "warn",
        trusted_keys: Sequence[str | PathLike] | str | PathLike | None = None,
        policy: PatchPolicy | str | PathLike | None = None,
        **base_kwargs: Any,
    ) -> PolicyPatchModel:
        """Load the base that a patch names, at the commit in its configuration, and add the patch.

        Args:
            model_id (`str`, `os.PathLike` or a sequence of them):
                Folder of a saved patch, or a repository on the Hub, maybe with a version: `"org/tox-patch@v1.2.0"`.
                Several ids form a stack, in the given order; the first patch names the base.
            patch_name, is_trainable, revision, subfolder, on_conflict (*optional*):
                Options of the patch, as in [`PolicyPatchModel.from_pretrained`].
            tokenizer, allow_base_mismatch, base_probe, allow_large_vectors (*optional*):
                Options of the checks of patch and base, as in [`PolicyPatchModel.from_pretrained`].
            trusted_keys, policy (*optional*):
                Whose patches are loaded, as in [`PolicyPatchModel.load_patch`]. They say nothing about the base.
            token, cache_dir, local_files_only, force_download (*optional*):
                Options of all downloads, for patch and base.
            base_kwargs (*optional*):
                All other arguments go to `AutoModelForCausalLM.from_pretrained`: `dtype`, `device_map`,
                `quantization_config`, ... Code from the base's repository runs only with `trust_remote_code=True`;
                a patch cannot request it.

        Returns:
            [`PolicyPatchModel`]: the patched model, in evaluation mode.

        Raises:
            ModelLoadError: the patch names no base, or the base cannot be loaded.
            PolicyPatchError: see [`PolicyPatchModel.from_pretrained`].
        """
        from transformers import AutoModelForCausalLM

        ids = ids_of(model_id)
        if not ids:
            raise PatchNameError("There is no patch in the list. Give one id, or several for a stack.")
        first = ids[0]
        trust = {"trusted_keys": trusted_keys, "policy": policy}
        options = HubOptions(revision, subfolder, token, cache_dir, local_files_only, force_download, **trust)
        opened = open_patch(first, options)
        config, location = opened.config, opened.location
        name = config.base_model_name_or_path
        if not name:
            raise ModelLoadError(
                f"The patch `{fspath(first)}` names no base. Load it yourself: `PolicyPatchModel.from_pretrained(base, "
                f'"{fspath(first)}")`.'
            )
        given = {"revision": config.base_model_revision, "token": token, "cache_dir": cache_dir}
        given = {key: value for key, value in given.items() if value is not None}
        at = f" at {config.base_model_revision}" if config.base_model_revision else ""
        base = load_pretrained(
            AutoModelForCausalLM,
            lab_folder(name) or name,
            named=f"the base `{name}`{at} that the patch `{fspath(first)}` names",
            advice="If you have it elsewhere, load it yourself and call `PolicyPatchModel.from_pretrained(base, ...)`.",
            **{"trust_remote_code": False, **given, **base_kwargs},
            local_files_only=local_files_only,
            force_download=force_download,
        )
        if location.commit is not None:  # the same commit that named the base, and no second request to the Hub
            ids[0] = f"{location.repo_id}@{location.commit}"
        return PolicyPatchModel.from_pretrained(
            base.eval(),
            ids[0] if len(ids) == 1 else ids,
            patch_name,
            is_trainable=is_trainable,
            tokenizer=tokenizer,
            allow_base_mismatch=allow_base_mismatch,
            base_probe=base_probe,
            allow_large_vectors=allow_large_vectors,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            on_conflict=on_conflict,
            **trust,
        )

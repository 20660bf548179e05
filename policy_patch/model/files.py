"""Loads, saves and publishes the patches of a patched model: the part of `PolicyPatchModel` with input and output.

`policy_patch.patch.folder` reads and writes the files; `policy_patch.hub.fetch` finds them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch.base.bos import agreed_bos
from policy_patch.base.fingerprint import check_base, renewed_fingerprint
from policy_patch.base.probe import looking_once
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import (
    HubRevisionError,
    PatchNameError,
    UnsupportedModelError,
)
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.opening import open_patch
from policy_patch.hub.publishing import published_config, push_patch
from policy_patch.hub.push import PushOptions
from policy_patch.model.ids import check_is_id, ids_of, patch_names_of
from policy_patch.model.scan_hook import check_scanned
from policy_patch.patch.folder import patch_files, write_patch_folder
from policy_patch.patch.vectors import check_norms
from policy_patch.report.report import EvaluationReport
from policy_patch.trust.signing import signed_files

logger = logging.get_logger(__name__)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.trust.policy_file import PatchPolicy


class PatchFiles:
    """Mixin of [`PolicyPatchModel`] that loads, saves and publishes patches.

    It needs the model's `_check_fits`, `_check_known` and `_insert`.
    """

    def load_patch(
        self,
        model_id: str | PathLike,
        patch_name: str,
        *,
        is_trainable: bool = False,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        allow_base_mismatch: bool = False,
        base_probe: bool = True,
        allow_large_vectors: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        trusted_keys: Sequence[str | PathLike] | str | PathLike | None = None,
        policy: "PatchPolicy | str | PathLike | None" = None,
    ) -> None:
        """Load a saved patch under a name. It is not active yet. Mirrors PEFT's `load_adapter`.

        Args:
            model_id (`str` or `os.PathLike`):
                Folder of a saved patch, or a repository on the Hub: `"org/tox-patch"`, `"org/tox-patch@v1.2.0"`.
            patch_name (`str`):
                Name of the patch in this model.
            is_trainable (`bool`, *optional*, defaults to `False`):
                Whether its vectors get gradients, so that the patch can be trained further.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
                The base's tokenizer, which is compared with the tokenizer that the patch was made for. Without it only
                the base's embeddings are compared.
            allow_base_mismatch (`bool`, *optional*, defaults to `False`):
                Accept a base that was fine-tuned since the patch was made. Another size, architecture or tokenizer is
                never accepted.
            base_probe (`bool`, *optional*, defaults to `True`):
                Compare the base's predictions for a few ids with the recorded predictions. This takes one forward pass
                of 2 rows of 16 tokens, also for several patches.
            allow_large_vectors (`bool`, *optional*, defaults to `False`):
                Accept vectors that are more than 100 times as long as the base's token embeddings.
            revision (`str`, *optional*):
                Branch, tag, commit or pull request (`refs/pr/N`) of the repository.
            subfolder (`str`, *optional*):
                Folder of the repository, or of the local folder, that holds the patch.
            token (`str` or `bool`, *optional*):
                Access token; `False` sends none. Defaults to the stored token, or `HF_TOKEN`.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Folder of the Hub client's cache. Defaults to `HF_HUB_CACHE`.
            local_files_only (`bool`, *optional*, defaults to `False`):
                Use only the cache, and make no request.
            force_download (`bool`, *optional*, defaults to `False`):
                Download files again even if the cache holds them.
            trusted_keys (`Sequence` of `str` or `os.PathLike`, *optional*):
                Public keys, as paths of PEM files or PEM texts. Only a patch that one of them has signed is loaded, and
                its vectors are the signed ones. Needs the extra `signing`.
            policy ([`~policy_patch.trust.policy_file.PatchPolicy`], `str` or `os.PathLike`, *optional*):
                A policy or its file: what is asked of the patch. The policy that the variable POLICY_PATCH_POLICY names
                holds, too.

        Raises:
            PatchNotFoundError, ConfigError, PatchFileError: see [`~policy_patch.patch.folder.read_patch_folder`].
            SignatureError: the patch is not signed by somebody trusted, its files are not the signed ones, or the
            policy
                does not allow where it comes from.
            EvaluationError: its report shows less than the policy asks for.
            HostilePatchError, TokenizerRequiredError: the policy requires a scan, and the scan does not allow the patch
                or has no tokenizer.
            HubAccessError, HubRevisionError, HubUnavailableError, DamagedDownloadError, HubError: the Hub does not
                deliver the patch, or delivers a damaged file.
            BaseMismatchError: the patch was made for another base.
            PositionLimitError: the patch is longer than the base's learned positions.
            PatchNameError: the name is taken or not allowed.
        """
        options = HubOptions(
            revision, subfolder, token, cache_dir, local_files_only, force_download, trusted_keys, policy
        )
        check_is_id(model_id)
        opened = open_patch(model_id, options)
        config, vectors, location = opened.config, opened.vectors, opened.location
        self._policies += [] if policy is None else [policy]
        base = self.get_base_model()
        self._check_fits(config, model_id)
        check_base(
            base,
            config.base_fingerprint,
            tokenizer=tokenizer,
            allow_mismatch=allow_base_mismatch,
            probe=base_probe,
            source=f"`{fspath(model_id)}` (for `{config.base_model_name_or_path}`)",
        )
        source = f"`{fspath(model_id)}`"
        if not allow_large_vectors:
            check_norms(vectors, base.get_input_embeddings(), f"The vectors of {source}")
        config = replace(config, bos_token_id=agreed_bos(config, base, tokenizer, source))
        vectors = vectors.to(base.get_input_embeddings().weight.device)
        proved = base_probe and not allow_base_mismatch
        check_scanned(self, config, vectors, tokenizer, source, policies=opened.rules.policies, is_its_base=proved)
        self._insert(
            patch_name,
            config,
            vectors,
            is_trainable=is_trainable,
            tokenizer=tokenizer,
            source=f"{location.repo_id}@{location.commit[:12]}" if location.commit else str(location.folder),
            origin=(location.repo_id, location.commit),
        )
        if proved:
            self._on_proved_base.add(patch_name)

    @classmethod
    def from_pretrained(
        cls,
        base: "PreTrainedModel",
        model_id: str | PathLike | Sequence[str | PathLike],
        patch_name: str | Sequence[str] | None = None,
        *,
        is_trainable: bool = False,
        on_conflict: str = "warn",
        activate: bool = True,
        **options: Any,
    ) -> Any:
        """Wrap `base` and load a saved patch, or a stack of them. Mirrors PEFT's `PeftModel.from_pretrained`.

        Args:
            base ([`~transformers.PreTrainedModel`]):
                The loaded base that the patch was made for.
            model_id (`str`, `os.PathLike` or a sequence of them):
                Folder of a saved patch, or a repository on the Hub, maybe with a version: `"org/tox-patch@v1.2.0"`.
                Several ids form a stack, in the given order.
            patch_name (`str` or `Sequence[str]`, *optional*):
                Name of the patch in this model. Defaults to `"default"` for one patch, and to the last parts of their
                ids for several.
            is_trainable (`bool`, *optional*, defaults to `False`):
                Whether the vectors get gradients, so that the patch can be trained further.
            on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
                What follows if a stack of this model breaks a rule of its patches, now or later.
            activate (`bool`, *optional*, defaults to `True`):
                Whether the patches become the active stack. Otherwise none is active.
            options (*optional*):
                `tokenizer`, `allow_base_mismatch`, `base_probe`, `allow_large_vectors`, `revision`, `subfolder`,
                `token`, `cache_dir`, `local_files_only`, `force_download`, `trusted_keys` and `policy`, as in
                [`load_patch`].

        Returns:
            [`PolicyPatchModel`]: the patched model, with the patch or the stack active, unless `activate` is false.

        Raises:
            UnsupportedModelError: `base` is not a decoder-only language model of transformers, or patches on it are not
                exact.
            PatchNotFoundError, ConfigError, PatchFileError, SignatureError, BaseMismatchError, HubError: see
                [`load_patch`].
            PatchConflictError: the stack breaks a rule of a patch, and `on_conflict` is `"refuse"`.
        """
        if isinstance(base, str | PathLike):
            raise UnsupportedModelError(
                f"`base` is {fspath(base)!r}; expected the loaded base first and then the patch: "
                '`PolicyPatchModel.from_pretrained(base, "org/tox-patch")`. `AutoPolicyPatchModel.from_pretrained` '
                "takes only the patch, and loads the base that the patch names."
            )
        ids = ids_of(model_id)
        names = patch_names_of(ids, patch_name)
        if len(ids) > 1 and options.get("revision"):
            raise HubRevisionError(
                f"`revision={options['revision']!r}` was given for {len(ids)} patches. Give each id its own revision, "
                f"like `{fspath(ids[0])}@v1.0.0`."
            )
        model = cls(base)
        try:
            model.on_conflict = on_conflict
            with looking_once():
                for one, name in zip(ids, names, strict=True):
                    model.load_patch(one, name, is_trainable=is_trainable, **options)
            if activate:
                model.set_patch(names)
        except BaseException:
            model.unload()
            raise
        logger.info(" ".join(repr(model).split()))
        return model

    def save_pretrained(self, save_directory: str | PathLike, *, patch_name: str | None = None) -> None:
        """Write one patch into a folder, as `policy_patch_config.json` and `policy_patch.safetensors`.

        The files have less than 1 MB for 50 vectors of 4096 numbers. Nothing of the base is written.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder. It is created if it does not exist; a patch in it is replaced.
            patch_name (`str`, *optional*):
                Name of the patch. Defaults to the active patch, or the only patch.

        Raises:
            PatchNameError: there are several patches and no name. To save a stack as one patch, compose it first.
            PatchFileError: the vectors hold NaN or infinity.
            PatchSaveError: the files cannot be written, as on a full disk or in a read-only folder. The patch that was
                there before still loads.
        """
        name = self._one_patch(patch_name)
        self.patch_config[name] = write_patch_folder(save_directory, self._renewed_config(name), self.patches[name])

    def push_to_hub(
        self,
        repo_id: str,
        *,
        patch_name: str | None = None,
        evaluation: EvaluationReport | str | PathLike | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        parent_commit: str | None = None,
        subfolder: str | None = None,
        tags: Sequence[str] = (),
        base_model: str | None = None,
        private_key: str | PathLike | None = None,
    ) -> "CommitInfo":
        """Publish one patch with its model card in one commit, tagged with its version. Mirrors PEFT's `push_to_hub`.

        Edits that people made to the card stay. A published version never changes: other vectors need another
        `patch_version`.

        Args:
            repo_id (`str`):
                `"org/tox-patch"`. Created if it does not exist.
            patch_name (`str`, *optional*):
                Name of the patch. Defaults to the active patch, or the only patch.
            evaluation ([`EvaluationReport`], `str` or `os.PathLike`, *optional*):
                The report on the patch, an `evaluation.json`, or the folder that holds it. Its figures go on the card,
                and it is published with the patch.
            commit_message (`str`, *optional*):
                Title of the commit. Defaults to "Publish version ...".
            commit_description (`str`, *optional*):
                Body of the commit message.
            private (`bool`, *optional*):
                Whether a repository created by this push is private. With `True`, a public repository is refused.
            token (`str` or `bool`, *optional*):
                Access token. Defaults to the stored token, or `HF_TOKEN`.
            revision (`str`, *optional*):
                Branch to commit to; created if it does not exist. Defaults to the main branch.
            create_pr (`bool`, *optional*, defaults to `False`):
                Open a pull request instead. No version tag is set then.
            parent_commit (`str`, *optional*):
                Commit that must still be the newest. If given, an older version may follow a newer one knowingly.
            subfolder (`str`, *optional*):
                Folder of the repository to publish in. No version tag is set then.
            tags (`Sequence[str]`, *optional*):
                Additional tags of the model card.
            base_model (`str`, *optional*):
                Hub id of the base, maybe with a commit (`"org/model@<commit>"`), if the patch names a folder of this
                machine. After publishing, the patch in this model has this id, too.
            private_key (`str` or `os.PathLike`, *optional*):
                PEM file of an elliptic-curve key that signs what is published. Needs the extra `signing`.

        Returns:
            `huggingface_hub.CommitInfo`: the commit; the newest one if there was nothing to change.

        Raises:
            ConfigError: the patch names a folder as its base, or the revision of its base is not a commit.
            PublishConflictError: the repository holds an equal or newer version, or this version with another patch;
                `parent_commit` is not the newest commit; somebody published meanwhile; or the repository is public but
                `private=True` was given. Nothing was written, neither on the Hub nor in this model.
            HubAccessError, HubUnavailableError, HubError: the Hub does not accept the commit.
            PatchNameError, PatchFileError: see [`save_pretrained`].
            EvaluationError: `evaluation` is not a report.
            SignatureError: the key cannot be used.
        """
        name = self._one_patch(patch_name)
        config = published_config(self._renewed_config(name), base_model=base_model)
        config, files = patch_files(config, self.patches[name])
        options = PushOptions(
            commit_message, commit_description, private, token, revision, create_pr, parent_commit, subfolder,
            None if private_key is None else partial(signed_files, private_key=private_key),
        )  # fmt: skip
        if isinstance(evaluation, str | PathLike):
            evaluation = EvaluationReport.load(evaluation)
        commit = push_patch(
            repo_id, config, files, evaluation=evaluation, tags=tags, options=options, base=self.get_base_model()
        )
        self.patch_config[name] = config
        return commit

    def _renewed_config(self, name: str) -> PolicyPatchConfig:
        """Return a patch's configuration. Its fingerprint is computed again if the base's vocabulary changed since."""
        config = self.patch_config[name]
        renewed = renewed_fingerprint(self.get_base_model(), config.base_fingerprint, self._tokenizers.get(name))
        return config if renewed is config.base_fingerprint else replace(config, base_fingerprint=renewed)

    def _one_patch(self, patch_name: str | None) -> str:
        """Return the given name if it is loaded. Without a name, return the active patch or the only patch."""
        if patch_name is not None:
            self._check_known(patch_name)
            return patch_name
        active = self.active_patches
        names = active if len(active) == 1 else list(self.patch_config)
        if len(names) != 1:
            raise PatchNameError(
                f"It is not clear which patch is meant. Loaded: {list(self.patch_config)}, active: {active}. Give "
                "`patch_name=`; to save a stack as one patch, make it with `compose_patch` first."
            )
        return names[0]

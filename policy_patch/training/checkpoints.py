"""Makes a trainer save, load and publish the patch of a `PolicyPatchModel`, and nothing of the base.

transformers' `Trainer` decides when a checkpoint is written, and writes its other files.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from policy_patch.errors import CheckpointSaveError
from policy_patch.files.documents import parse_json, read_text
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.names import check_token
from policy_patch.model.state_dict import set_policy_patch_state_dict
from policy_patch.patch.folder import read_patch_folder
from policy_patch.patch.tensor_file import TENSOR_KEY
from policy_patch.training.processes import in_main_process, save_patch

_LARGEST_STATE = 2**28  # bytes of a trainer's state, which holds its whole log; chosen by us
# Scripts give these arguments for the card of a fine-tuned model. A patch's card is filled from its configuration.
_OF_ANOTHER_CARD = (
    "model_name", "dataset_name", "language", "license", "finetuned_from", "tasks", "dataset_tags", "dataset",
    "dataset_args",
)  # fmt: skip


class PatchCheckpoints:
    """Mixin of a transformers `Trainer`. The trainer must have `patch_name`, the name of the patch to save.

    Upstream would write the whole base, fail on tied weights, and refuse folders that lack its own files. A folder
    written here has no pickled arguments, no tokenizer (the base has it) and no card of a fine-tuned model.
    """

    patch_name: str

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the patch. Upstream would gather the whole base first if it is sharded.

        Args:
            output_dir (`str`, *optional*):
                Folder to write to. Defaults to `args.output_dir`.

        Raises:
            PatchSaveError, PatchFileError: the patch cannot be written.
        """
        model = self.accelerator.unwrap_model(self.model)
        save_patch(model, self.patch_name, output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the patch with its own card to `args.hub_model_id` in one commit, and wait until it is done.

        Args:
            commit_message (`str`, *optional*), token (`str`, *optional*), revision (`str`, *optional*), private
            (`bool`, *optional*):
                As [`PolicyPatchModel.push_to_hub`].
            blocking (`bool`, *optional*):
                Ignored; upstream has this argument.
            kwargs (*optional*):
                Further options of [`PolicyPatchModel.push_to_hub`]. Options for the card of a fine-tuned model, such as
                `dataset_name`, are ignored.

        Returns:
            `huggingface_hub.CommitInfo`: the commit in the main process, None in other processes.
        """
        token = token if token is not None else self.args.hub_token
        private = private if private is not None else self.args.hub_private_repo
        check_token(token)
        if self.hub_model_id is None:
            with hub_errors(self.args.hub_model_id or "your repository", doing="make"):
                self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        model = self.accelerator.unwrap_model(self.model)
        options = {name: value for name, value in kwargs.items() if name not in _OF_ANOTHER_CARD}
        tags = options.pop("tags", None) or ()
        options["tags"] = [*([tags] if isinstance(tags, str) else tags), *getattr(model, "model_tags", ())]
        options.update(commit_message=commit_message, token=token, private=private)
        options["revision"] = revision if revision is not None else self.args.hub_revision
        published: list[Any] = []
        in_main_process(
            lambda: published.append(model.push_to_hub(self.hub_model_id, patch_name=self.patch_name, **options))
        )
        return published[0] if published else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            folder = os.path.join(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # an incomplete checkpoint is useless and takes space
            intact = last_checkpoint(self.args.output_dir)
            raise CheckpointSaveError(
                f"Cannot save the checkpoint `{folder}`: {str(error).splitlines()[0]} "
                + (f"The last good one, `{intact}`, is intact. " if intact else "There is no earlier one. ")
                + "Free some space or repair the folder, and run the same command again: it resumes from there."
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        _, vectors = read_patch_folder(resume_from_checkpoint)
        model = self.accelerator.unwrap_model(model or self.model)
        set_policy_patch_state_dict(model, {TENSOR_KEY: vectors}, self.patch_name, allow_large_vectors=True)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing. TRL's card describes a fine-tuned model, and the code on it cannot load a patch."""


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """Return the newest complete checkpoint in `folder`, or None.

    A checkpoint is complete if its trainer state, which is written last, and its patch can be read.
    """
    from transformers.trainer_callback import TrainerState

    found = []
    for path in Path(folder).iterdir() if os.path.isdir(folder) else ():
        step, state_file = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"), path / "trainer_state.json"
        if step.isdigit() and state_file.is_file():
            try:
                parse_json(read_text(state_file, largest=_LARGEST_STATE), most_nested=32)
                TrainerState.load_from_json(str(state_file))
                read_patch_folder(path)
            except (ValueError, TypeError, OSError):
                continue
            found.append((int(step), str(path)))
    return max(found)[1] if found else None

"""Work that the processes of one `accelerate launch` do together: one writes files while the others wait.

accelerate distributes the rows over the processes and averages their gradients.
"""

import os
from collections.abc import Callable
from os import PathLike
from typing import Any

from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.folder import write_patch_folder
from policy_patch.patch.vectors import whole


def in_main_process(action: Callable[[], Any]) -> None:
    """Run `action` in the main process while the other processes wait. If it fails, all processes fail.

    Raises:
        TrainingError: in the other processes, if `action` failed. The main process raises the error of `action`.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    failure = None
    if state.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    words = [failure and f"{type(failure).__name__}: {failure}"]
    broadcast_object_list(words)
    if failure is not None:
        raise failure
    if words[0] is not None:
        raise TrainingError(f"The main process failed, so this process stops, too. {words[0]}")


def is_sharded(args: Any) -> bool:
    """Return whether these `TrainingArguments` shard the base over the processes (FSDP, DeepSpeed)."""
    launched = [os.environ.get(f"ACCELERATE_USE_{name}", "") for name in ("FSDP", "DEEPSPEED")]
    return bool(args.fsdp or args.deepspeed) or any(word.lower() in ("1", "true") for word in launched)


def save_patch(model: PolicyPatchModel, patch_name: str, folder: str | PathLike) -> None:
    """Write one patch into `folder` from the main process. All processes must call it, because each may hold a shard.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The model.
        patch_name (`str`):
            The patch to write.
        folder (`str` or `os.PathLike`):
            Folder to write to.

    Raises:
        PatchSaveError, PatchFileError: as [`PolicyPatchModel.save_pretrained`].
    """
    vectors = whole(model.patches[patch_name])

    def write() -> None:
        model.patch_config[patch_name] = write_patch_folder(folder, model.patch_config[patch_name], vectors)

    in_main_process(write)

"""Saves the state of a stage that must survive a stop: its start vectors, its time, and its number of tokens.

The state is one file in each checkpoint. Only the log's figures depend on it; training itself does not.
"""

import os
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.utils import logging

from policy_patch.errors import TrainingError
from policy_patch.files.atomic import write_whole
from policy_patch.patch.tensor_file import TENSOR_KEY

logger = logging.get_logger(__name__)

MEMORY_NAME = "stage_start.safetensors"


class StageMemory:
    """The start vectors of a stage, and its training time over all resumed runs.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the vectors at the start of the stage; they are copied.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        self.start = vectors.detach().clone()
        self._spent, self._since = 0.0, None

    @property
    def seconds(self) -> float:
        """Return the seconds of training so far, without the steps that were lost when a run was killed."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    def begin(self) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def save(self, folder: str | os.PathLike, num_tokens: int) -> None:
        """Write the state into a checkpoint.

        Args:
            folder (`str` or `os.PathLike`):
                Folder of the checkpoint.
            num_tokens (`int`):
                Number of tokens trained on so far.

        Raises:
            OSError: the file cannot be written.
        """
        metadata = {"num_tokens": str(num_tokens), "seconds": str(self.seconds)}
        write_whole(Path(folder, MEMORY_NAME), save({TENSOR_KEY: self.start.float().cpu().contiguous()}, metadata))

    def load(self, folder: str | os.PathLike) -> int:
        """Read the state from a checkpoint, and return the number of tokens trained on until then.

        A checkpoint of an earlier version has no such file; then the start vectors stay as they are.

        Raises:
            TrainingError: the file is damaged.
        """
        path = Path(folder, MEMORY_NAME)
        if not path.is_file():
            logger.info(f"`{folder}` has no `{MEMORY_NAME}`; distances are measured from this checkpoint.")
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                start, metadata = file.get_tensor(TENSOR_KEY), file.metadata()
            self._spent, num_tokens = float(metadata["seconds"]), int(metadata["num_tokens"])
            self.start = start.reshape(self.start.shape).to(self.start.device)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"`{path}` is damaged: {error}. Delete that file to resume with figures that count from this "
                "checkpoint, or delete the whole checkpoint to resume from the one before."
            ) from error
        return num_tokens

"""What a stage must know of its own past over a stop: where it started, how long it took, how much text it read.

It lies in each checkpoint beside what transformers keeps there; the training itself needs none of it.
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
from policy_patch.patch.vectors import TENSOR_KEY

logger = logging.get_logger(__name__)

MEMORY_NAME = "stage_start.safetensors"


class StageMemory:
    """The start of a stage and what was spent since then, over all the times that it was gone on with.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the vectors as the stage begins; they are copied.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        self.start = vectors.detach().clone()
        self._spent, self._since = 0.0, None

    @property
    def seconds(self) -> float:
        """Seconds of training so far; steps that were lost by a kill do not count."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    def begin(self) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def save(self, folder: str | os.PathLike, num_tokens: int) -> None:
        """Write it into a checkpoint, with the number of tokens read so far.

        Raises:
            OSError: it could not be written.
        """
        metadata = {"num_tokens": str(num_tokens), "seconds": str(self.seconds)}
        write_whole(Path(folder, MEMORY_NAME), save({TENSOR_KEY: self.start.float().cpu().contiguous()}, metadata))

    def load(self, folder: str | os.PathLike) -> int:
        """Take it from a checkpoint, and return the number of tokens read until then.

        A checkpoint without it, of an earlier version, leaves the start as it is.

        Raises:
            TrainingError: the file is damaged.
        """
        path = Path(folder, MEMORY_NAME)
        if not path.is_file():
            logger.info(f"`{folder}` does not say where its stage started; distances are from where it goes on.")
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                start, metadata = file.get_tensor(TENSOR_KEY), file.metadata()
            self._spent, num_tokens = float(metadata["seconds"]), int(metadata["num_tokens"])
            self.start = start.reshape(self.start.shape).to(self.start.device)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"`{path}` is damaged: {error}. Delete that file to go on with figures that count from here, or the "
                "whole checkpoint to go on from the one before."
            ) from error
        return num_tokens

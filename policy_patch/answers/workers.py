"""The processes of one `accelerate launch` that share a sampling run: their numbers, and how they wait for each other.

They communicate through files, not through a collective operation, which would time out when one share is slow.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from policy_patch.errors import DataError
from policy_patch.extra import import_extra

Found = TypeVar("Found")
_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 2 * 60 * 60  # without a new file; our choice, far longer than one shard takes


@dataclass(frozen=True)
class Workers:
    """The number of this process among those of the launch.

    Args:
        index (`int`):
            Number of this process; 0 is the main process.
        count (`int`):
            Number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_launch(cls) -> "Workers":
        """Return the number of this process, as accelerate counts it. Without a launch there is one process.

        Raises:
            MissingExtraError: several processes were launched, and accelerate is not installed.
            DataError: accelerate was already started in a way in which it sees only this process.
        """
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched == 1:
            return cls()
        import torch

        accelerate = import_extra("accelerate", "accelerate", "train", "A launch of several processes")

        # Without an accelerator, accelerate 1.15 counts one process unless it is told to use the CPU.
        on_cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = accelerate.PartialState(cpu=on_cpu)
        if state.num_processes != launched:  # each process would do all the work, in one folder
            raise DataError(
                f"{launched} processes were launched (`WORLD_SIZE`), but accelerate sees {state.num_processes}. On a "
                "machine without an accelerator, start it with `PartialState(cpu=True)`, or let this call start it."
            )
        return cls(state.process_index, state.num_processes)

    @staticmethod
    def wait_for(look: Callable[[], Found | None], folder: Path) -> Found:
        """Call `look` until it finds the result of another process, and return that result.

        If the other process fails, the launcher ends this one too. Without a launcher, the time limit ends the wait.

        Args:
            look (`Callable[[], Found | None]`):
                Returns None while the result is not there.
            folder (`Path`):
                Folder in which the other processes write. New files there show that they are alive.

        Raises:
            DataError: no new file appeared for two hours.
        """
        news, since = _changed(folder), time.monotonic()
        while (found := look()) is None:
            time.sleep(_PAUSE_SECONDS)
            if (now := _changed(folder)) != news:
                news, since = now, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                raise DataError(
                    f"The other processes have written nothing to `{folder}` for {_PATIENCE_SECONDS / 3600:g} hours. "
                    "Check that they still run and that all can read this folder. The same command continues from the "
                    "stored answers."
                )
        return found


def _changed(folder: Path) -> int | None:
    """Return when a file was last added or removed; None if the folder does not exist yet."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None

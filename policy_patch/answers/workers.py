"""The processes of one `accelerate launch` that share a run of sampling: who is who, and waiting for each other.

They meet over files and not over a collective, whose timeout a slow share would break.
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
_PATIENCE_SECONDS = 2 * 60 * 60  # without a new file; chosen by us, far above what a shard takes


@dataclass(frozen=True)
class Workers:
    """This process among those of the launch.

    Args:
        index (`int`):
            Number of this process; 0 is the main one.
        count (`int`):
            Number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_launch(cls) -> "Workers":
        """Return this process' place, by accelerate where several were launched; alone otherwise.

        Raises:
            MissingExtraError: several were launched, and accelerate is not installed.
            DataError: accelerate was started before in a way that makes it see this process alone.
        """
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched == 1:
            return cls()
        import torch

        accelerate = import_extra("accelerate", "accelerate", "train", "A launch of several processes")

        # accelerate 1.15 counts one process where there is no accelerator, unless it is told of the CPU.
        on_cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = accelerate.PartialState(cpu=on_cpu)
        if state.num_processes != launched:  # each of them would do all the work, in one folder
            raise DataError(
                f"{launched} processes were launched (`WORLD_SIZE`), and accelerate sees {state.num_processes}. Start "
                "it with `PartialState(cpu=True)` where there is no accelerator, or leave that to this call."
            )
        return cls(state.process_index, state.num_processes)

    @staticmethod
    def wait_for(look: Callable[[], Found | None], folder: Path) -> Found:
        """Return what `look` finds, once it does: another process is at work on it.

        If that one fails, its launcher ends this one too; where no launcher watches, patience does.

        Args:
            look (`Callable[[], Found | None]`):
                Returns None as long as there is nothing.
            folder (`Path`):
                Where the others write. As long as something new comes there, they are alive.

        Raises:
            DataError: nothing came for two hours.
        """
        news, since = _changed(folder), time.monotonic()
        while (found := look()) is None:
            time.sleep(_PAUSE_SECONDS)
            if (now := _changed(folder)) != news:
                news, since = now, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                raise DataError(
                    f"The other processes have written nothing to `{folder}` for {_PATIENCE_SECONDS / 3600:g} hours. "
                    "Have they ended, and do all see that folder? The same command goes on from what is there."
                )
        return found


def _changed(folder: Path) -> int | None:
    """Return when a file last came or went; None for a folder that is not there yet."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None

"""The processes of one `accelerate launch` that share a run of sampling: who is who, and waiting for each other.

They meet over files and not over a collective, whose timeout a slow share would break.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Found = TypeVar("Found")
_PAUSE_SECONDS = 0.5


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
        """Return this process' place, by accelerate where several were launched; alone otherwise."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState()
        return cls(state.process_index, state.num_processes)

    def main_first(self, action: Callable[[], Any]) -> None:
        """Run `action` in the main process, and then in the others."""
        if self.count == 1:
            action()
            return
        from accelerate import PartialState

        with PartialState().main_process_first():
            action()

    @staticmethod
    def wait_for(look: Callable[[], Found | None]) -> Found:
        """Return what `look` finds, once it does: another process is at work on it.

        If that one fails, its launcher ends this one too.
        """
        while (found := look()) is None:
            time.sleep(_PAUSE_SECONDS)
        return found

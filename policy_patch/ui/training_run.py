"""One training of a visitor in its own thread, by a recipe of the lab, and the folder that it leaves.

The tab that starts it is in `train.py`; `line.py` decides when it may start.
"""

import queue
import shutil
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerCallback

from policy_patch.patch.folder import patch_files, read_patch_folder, write_patch_files
from policy_patch.ui.line import Place
from policy_patch.ui.served import Served
from policy_patch.ui.visitors import Watch

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

PUBLISHED = "alone"  # the folder with the two files of the patch and nothing else
_POLL_SECONDS = 0.5
_MOST_POINTS = 40  # of a plot


class LabRecipe(NamedTuple):
    """The values of a recipe of the lab that the tab shows."""

    sft_steps: int
    dpo_steps: int
    seed: int


@cache
def lab_recipe(risk: str) -> LabRecipe:
    """Return the steps and the seed of the recipe that made the lab's patch against a risk."""
    from policy_patch.lab import LAB_MODELS_PATH
    from policy_patch.recipes import TrainRecipe

    recipe = TrainRecipe.from_yaml(LAB_MODELS_PATH.parent / f"{risk}.yaml")
    return LabRecipe(recipe.sft["max_steps"], recipe.dpo["max_steps"], recipe.seed)


class Run:
    """One training in its own thread, and its folder. It gives its place in the line up when the thread ends.

    Args:
        served ([`Served`]):
            Whose temporary files hold the folder.
        place ([`Place`]):
            The visitor's place in the line.
        settings (`tuple`):
            The risk, the steps of SFT and of DPO, and the seed.
    """

    def __init__(self, served: Served, place: Place, settings: tuple[str, int, int, int]) -> None:
        self._scratch, self._place, self._settings = served.scratch, place, settings
        self._entries: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._folder: Path | None = None
        self._error: Exception | None = None
        self._is_kept = self._is_left = self._has_ended = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the training."""
        self._folder = self._scratch.new(held=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Wait a moment, and return whether the training still runs or has unread entries."""
        self._thread.join(_POLL_SECONDS)
        return self._thread.is_alive() or not self._entries.empty()

    def entries(self) -> list[dict[str, Any]]:
        """Return the log entries since the last call."""
        return [self._entries.get() for _ in range(self._entries.qsize())]

    def archive(self) -> Path:
        """Return the trained patch as a zip archive, or raise the error that ended the training."""
        if self._error is not None:
            raise self._error
        folder = self._folder / "patch"
        archive = shutil.make_archive(str(self._folder / f"{self._settings[0]}-patch"), "zip", _published(folder))
        self._is_kept = True
        return Path(archive)

    def end(self) -> None:
        """Stop the training if it still runs. Its folder is removed when it has ended, unless it holds a patch."""
        self._place.watch.stop()
        if self._folder is None:  # the training never started
            self._place.leave()
        elif self._is_kept:
            self._scratch.release(self._folder)
        else:
            with self._lock:
                self._is_left, has_ended = True, self._has_ended
            if has_ended:
                self._scratch.remove(self._folder)

    def _train(self) -> None:
        try:
            _by_recipe(self._settings, self._folder / "patch", _Live(self._entries, self._place.watch))
        except Exception as error:  # any error is shown to the visitor
            self._error = error
        finally:
            with self._lock:
                self._has_ended, is_left = True, self._is_left
            if is_left:
                self._scratch.remove(self._folder)
            self._place.leave()


class _Live(TrainerCallback):
    """Passes each log entry to the page, and ends the training when the visitor stops it or leaves."""

    def __init__(self, entries: "queue.Queue[dict[str, Any]]", watch: Watch) -> None:
        self._entries, self._watch = entries, watch

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Raise `StoppedError` if the visitor no longer waits. Called during sampling and after each step."""
        self._watch.check()

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            stage = "DPO" if "rewards/margins" in logs else "SFT"
            self._entries.put({"step": state.global_step, "loss": float(logs["loss"]), "stage": stage})


def _by_recipe(settings: tuple[str, int, int, int], folder: Path, live: _Live) -> None:
    from policy_patch.lab import LAB_MODELS_PATH
    from policy_patch.recipes import TrainRecipe

    risk, sft, dpo, seed = settings
    overrides = {
        "output_dir": str(folder), "seed": seed, "device": "cpu", "sft.max_steps": sft, "dpo.max_steps": dpo,
        "sft.logging_steps": max(1, sft // _MOST_POINTS), "dpo.logging_steps": max(1, dpo // _MOST_POINTS),
    }  # fmt: skip
    recipe = TrainRecipe.from_yaml(LAB_MODELS_PATH.parent / f"{risk}.yaml", overrides=overrides)
    recipe.run(callbacks=[live], on_progress=live.on_progress)


def _published(patch: Path) -> Path:
    """Return a folder with the files of a patch only, without checkpoints and other files of the training."""
    alone = patch.with_name(PUBLISHED)
    write_patch_files(alone, patch_files(*read_patch_folder(patch))[1])
    return alone

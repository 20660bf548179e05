"""The progress bar of a training stage: steps, time left, loss, rewards, and how far the vectors have moved.

Which figures are shown is said in `policy_patch.training.progress`, as for the bar without the command line.
"""

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from policy_patch.cli.console import stderr
from policy_patch.training.progress import figures


class RichProgress(TrainerCallback):
    """A trainer callback that shows one bar per stage on stderr."""

    def __init__(self) -> None:
        self._bars: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar, at the step of the checkpoint if there is one."""
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left:"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
            console=stderr, transient=not stderr.is_terminal,
        )  # fmt: skip
        stage = "DPO" if hasattr(args, "beta") else "SFT"
        self._task = self._bars.add_task(
            f"training, {stage}", total=state.max_steps, completed=state.global_step, figures=""
        )
        self._bars.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        text = figures(logs or {})
        if text and self._bars is not None:
            self._bars.update(self._task, figures=text)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the bar."""
        self.close()

    def close(self) -> None:
        """End the bar, also where training was interrupted: a live one hides the cursor."""
        if self._bars is not None:
            self._bars.stop()

"""Progress bars of a training: one for the sampling, and one per training stage with its newest figures.

`policy_patch.training.progress` chooses the figures, such as loss and rewards; the bar in Python shows the same.
"""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from policy_patch.cli.console import new_bars, room_beside
from policy_patch.extra import needs_extra
from policy_patch.recipes.stage_progress import stage_name
from policy_patch.training.progress import figures

with needs_extra("cli", "The command line"):
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Figures(ProgressColumn):
    """The newest figures of a training stage: as many as the line has room for."""

    def render(self, task: Task) -> Text:
        """Return the figures of a task as text."""
        room, text = room_beside(task), ""
        for part in task.fields["figures"].split(", "):
            longer = f"{text}, {part}" if text else part
            if len(longer) > room:
                break
            text = longer
        return Text(text)


class RichProgress(TrainerCallback):
    """A trainer callback that shows one bar per training stage on stderr. `tell` shows bars for other stages.

    No bar is live between stages, because libraries show their own bars while they load models.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._told: str | None = None  # the stage of the current bar, or of the last bar
        self._is_training = False

    def tell(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage other than training. Use it as `on_progress` of a recipe."""
        if self._is_training or stage.startswith("training,"):  # training has its own bar with figures
            return
        if stage != self._told:
            self.close()
            self._open(stage, done, total)
        self._bars.update(self._task, completed=done, total=total)
        if done >= total:
            self.close()

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Start the bar, at the step of the checkpoint if there is one."""
        self.close()
        self._is_training = True
        self._open(stage_name(args), state.global_step, state.max_steps)

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest figures."""
        text = figures(logs or {})
        if text and self._bars is not None:
            self._bars.update(self._task, figures=text)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """End the bar."""
        self.close()

    def close(self) -> None:
        """End the bar. Call it after an interrupted training, too, because a live bar hides the cursor."""
        self._is_training = False
        if self._bars is not None and self._bars.live.is_started:
            self._bars.stop()

    def _open(self, stage: str, done: int, total: int) -> None:
        self._bars = new_bars(Figures())
        self._told = stage
        self._task = self._bars.add_task(stage, total=total, completed=done, figures="")
        self._bars.start()

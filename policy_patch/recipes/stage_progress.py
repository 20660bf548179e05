"""A trainer callback that reports the progress of training to `on_progress`, as other long stages do.

Losses are in the log; the caller's own callbacks can read them.
"""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from policy_patch.recipes.recipe import Progress

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class StageProgress(TrainerCallback):
    """Calls `on_progress` after each step. An exception that it raises ends the training.

    Args:
        on_progress (`Callable[[str, int, int], None]`):
            Called with `"training, SFT"` or `"training, DPO"`, the number of steps done and the total.
    """

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Report the first step of the stage, which is the checkpoint's step in a resumed run."""
        self.on_step_end(args, state, control)

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Report the step."""
        self._on_progress(stage_name(args), state.global_step, state.max_steps)


def stage_name(args: "TrainingArguments") -> str:
    """Return the name of the stage with these settings, `"training, SFT"` or `"training, DPO"`."""
    return f"training, {'DPO' if hasattr(args, 'beta') else 'SFT'}"

"""A trainer callback that tells of a training stage as any other long stage is told of: its name, done, to do.

Losses are not its business: they are in the log, and callbacks of the caller see them.
"""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from policy_patch.recipes.recipe import Progress

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class TrainingTold(TrainerCallback):
    """Tells `on_progress` of each step; what that raises ends the training.

    Args:
        on_progress (`Callable[[str, int, int], None]`):
            Called with `"training, SFT"` or `"training, DPO"`, the steps done and all steps.
    """

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Tell where the stage begins: at the step of the checkpoint if there is one."""
        self.on_step_end(args, state, control)

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Tell of the step."""
        self._on_progress(stage_name(args), state.global_step, state.max_steps)


def stage_name(args: "TrainingArguments") -> str:
    """Return how the stage with these settings is called."""
    return f"training, {'DPO' if hasattr(args, 'beta') else 'SFT'}"

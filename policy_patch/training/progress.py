"""Shows the progress of a training stage: one bar with loss, rewards, and norm and distance of the vectors.

The bar shows a selection of the figures; the log has all of them.
"""

from typing import Any

from transformers.trainer_callback import ProgressCallback

from policy_patch.training.patch_norms import DISTANCE, NORM

_SHOWN = {
    "loss": ("loss", ".3f"),
    "eval_loss": ("eval loss", ".3f"),
    "rewards/accuracies": ("accuracy", ".2f"),
    "rewards/margins": ("margin", ".3f"),
    NORM: ("norm", ".3g"),
    DISTANCE: ("moved", ".1%"),
}


def figures(logs: dict[str, Any]) -> str:
    """Return the main figures of one log entry as text, such as "loss 0.412, accuracy 0.90".

    The text is empty for an entry without a loss, such as the last one of a stage.
    """
    if "loss" not in logs and "eval_loss" not in logs:
        return ""
    return ", ".join(f"{word} {float(logs[name]):{form}}" for name, (word, form) in _SHOWN.items() if name in logs)


class TrainingProgress(ProgressCallback):
    """transformers' progress bar, followed by the newest figures instead of a printed dict per log entry."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        text = figures(logs or {})
        if text and self.training_bar is not None:
            self.training_bar.set_postfix_str(text)

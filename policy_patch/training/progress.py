"""The progress of a training stage as people read it: one bar with loss, rewards and the vectors' way beside it.

Only which figures are shown and how; all of them are in the log.
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
    """Return the figures of one log entry that tell how training goes, as text: "loss 0.412, accuracy 0.90".

    An entry without a loss, as at the end of a stage, has none.
    """
    if "loss" not in logs and "eval_loss" not in logs:
        return ""
    return ", ".join(f"{word} {float(logs[name]):{form}}" for name, (word, form) in _SHOWN.items() if name in logs)


class TrainingProgress(ProgressCallback):
    """transformers' progress bar, with the newest figures behind it in place of a dictionary a step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        text = figures(logs or {})
        if text and self.training_bar is not None:
            self.training_bar.set_postfix_str(text)

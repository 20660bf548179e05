"""The progress of a training stage as people read it: one bar with loss, reward accuracy and margin beside it."""

from typing import Any

from transformers.trainer_callback import ProgressCallback

_SHOWN = {"loss": "loss", "eval_loss": "eval loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}


def figures(logs: dict[str, Any]) -> str:
    """Return the figures of one log entry that tell how training goes, as text: "loss 0.412, accuracy 0.900"."""
    return ", ".join(f"{word} {float(logs[name]):.3f}" for name, word in _SHOWN.items() if name in logs)


class TrainingProgress(ProgressCallback):
    """transformers' progress bar, with the newest figures behind it in place of a dictionary a step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        text = figures(logs or {})
        if text and self.training_bar is not None:
            self.training_bar.set_postfix_str(text)

"""Rules that detect from the log that training is not going well, and callbacks that apply them.

The rules read log entries only, and only cause warnings. Training is stopped only if the vectors are no longer finite.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from policy_patch.errors import TrainingError
from policy_patch.patch.vectors import whole
from policy_patch.training.patch_norms import DISTANCE, NORM

logger = logging.get_logger(__name__)

ACCURACY = "rewards/accuracies"
WARNINGS = "warnings"  # key of a log entry: the warnings given at that step

# We chose these limits from runs on two miniature bases, of 1M and 6M parameters. Good runs: 61 SFT and 110 DPO stages,
# at learning rates of 3e-3 to 3e-2 and 3e-4 to 8e-3. Bad runs: the lab's recipe at learning rates of 1e-7, 1e-5, 1 and
# 10, and with chosen and rejected exchanged in half of the pairs, also at beta 5 and 50.
_LEAST_DISTANCE = 0.005  # checked from half of the steps on; good runs: 0.026 and more, bad runs: 0.002 and less
_LARGEST_RISE = 1.5  # smoothed loss divided by its start; good runs: 1.03 and less, bad runs: 2.1 and more
# Distance of the reward accuracy from 0.5; good runs reach 0.72 and more, with the teacher as reference 0.35 and less.
_AROUND_CHANCE = 0.1
# In mean norms of a token embedding; good runs: 2 and less (a rate of 0.1 still learns, at 5), bad runs: 24 and more.
_LARGEST_NORM = 20.0

_START_ROWS = 16  # the mean loss of fewer rows is too noisy
_CHANCE_ROWS = 48  # the mean accuracy of fewer rows is too noisy
_FEWEST_ENTRIES = 3


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """What the rules need to know about a stage in addition to its log.

    Args:
        max_steps (`int`):
            Number of steps of the whole stage.
        rows_per_step (`int`):
            Number of rows in one step, over all processes.
        learning_rate (`float`):
            Peak learning rate, as in the settings.
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings.
    """

    max_steps: int
    rows_per_step: int
    learning_rate: float
    embedding_norm: float


@dataclass(frozen=True)
class _Point:
    """One log entry of training, and the number of steps over which its figures are averaged."""

    step: int
    steps: int
    entry: dict[str, Any]


def findings(entries: Sequence[dict[str, Any]], facts: StageFacts) -> dict[str, str]:
    """Return the problems that the log shows after its last entry, each with advice.

    Args:
        entries (`Sequence[dict]`):
            `trainer.state.log_history` of one stage so far.
        facts ([`StageFacts`]):
            Facts about the stage that are not in the log.

    Returns:
        `dict[str, str]`: messages for people, under the keys `"still"`, `"rising"`, `"chance"` and `"long"`; empty if
        there is no problem.
    """
    logged = [entry for entry in entries if "loss" in entry]
    befores = [0, *(entry["step"] for entry in logged)]
    points = [_Point(entry["step"], max(1, entry["step"] - before), entry) for entry, before in zip(logged, befores)]
    found = {name: rule(points, facts) for name, rule in _RULES.items()} if points else {}
    return {name: message for name, message in found.items() if message}


def _still(points: list[_Point], facts: StageFacts) -> str | None:
    """Return a message if the loss does not move.

    The rule looks at the vectors' distance from their start: the loss is too noisy to tell good from bad runs.
    """
    last = points[-1]
    distance = last.entry[DISTANCE]
    if len(points) < _FEWEST_ENTRIES or 2 * last.step < facts.max_steps or distance >= _LEAST_DISTANCE:
        return None
    return (
        f"The loss does not move: {points[0].entry['loss']:.3f} at step {points[0].step}, {last.entry['loss']:.3f} at "
        f"step {last.step} of {facts.max_steps}. The vectors moved by {100 * distance:.2g}% of their norm. Raise "
        f"`learning_rate` (it is {facts.learning_rate:g}; 1e-2 for SFT and 5e-3 for DPO are usual), or train for more "
        "steps."
    )


def _rising(points: list[_Point], facts: StageFacts) -> str | None:
    """Return a message if the loss is far above its start.

    For DPO the start is at least ln 2, the loss of a policy that equals its reference.
    """
    number = 1
    while number < len(points) and points[number - 1].step * facts.rows_per_step < _START_ROWS:
        if abs(points[0].entry["loss"] - math.log(2)) < 1e-3:  # this start is exact, even with few rows
            break
        number += 1
    start = _mean(points[:number], "loss")
    if ACCURACY in points[-1].entry:
        start = max(start, math.log(2))
    recent = points[number:][-max(_FEWEST_ENTRIES, len(points) // 3) :]
    if len(recent) < _FEWEST_ENTRIES or not start > 0:
        return None
    now = _mean(recent, "loss")
    if now <= _LARGEST_RISE * start:
        return None
    beta = " or `beta`" if ACCURACY in points[-1].entry else ""
    return (
        f"The loss diverges: {start:.3f} at the start, {now:.3f} over the steps to {points[-1].step}. Lower "
        f"`learning_rate` (it is {facts.learning_rate:g}){beta}, raise `warmup_steps`, or lower `max_grad_norm`."
    )


def _chance(points: list[_Point], facts: StageFacts) -> str | None:
    """Return a message if DPO, after a quarter of the stage, prefers the chosen answer in about half of the pairs.

    The second half of the log so far counts. The first entry never counts: its margin is 0, so accuracy means nothing.
    """
    last = points[-1]
    since = max(last.step / 2, points[0].step)
    recent = [point for point in points if ACCURACY in point.entry and point.step > since]
    rows = sum(point.steps for point in recent) * facts.rows_per_step
    if len(points) <= _FEWEST_ENTRIES or 4 * last.step < facts.max_steps or rows < _CHANCE_ROWS:
        return None
    accuracy = _mean(recent, ACCURACY)
    if abs(accuracy - 0.5) >= _AROUND_CHANCE:
        return None
    return (
        f"The reward accuracy stays at chance: {accuracy:.2f} over the steps to {last.step} of {facts.max_steps}. "
        "Check the pairs: `chosen` must be the better answer in each row, by a clear margin (raise `min_margin` when "
        "sampling them). If the pairs are right, raise `learning_rate` "
        f"(it is {facts.learning_rate:g}) or train for more steps."
    )


def _long(points: list[_Point], facts: StageFacts) -> str | None:
    """Return a message if the vectors are far longer than token embeddings, the only inputs that the base has learned.

    A base that normalises its inputs hides this from the loss.
    """
    norm = points[-1].entry[NORM]
    if norm <= _LARGEST_NORM * facts.embedding_norm:
        return None
    return (
        f"The vectors grow far too long: their mean norm is {norm:.3g} at step {points[-1].step}, "
        f"{norm / facts.embedding_norm:.0f} times that of a token embedding. Lower `learning_rate` (it is "
        f"{facts.learning_rate:g}), or set `max_vector_norm`, for example to 3."
    )


_RULES: dict[str, Callable[[list[_Point], StageFacts], str | None]] = {
    "still": _still,
    "rising": _rising,
    "chance": _chance,
    "long": _long,
}


def _mean(points: list[_Point], name: str) -> float:
    """Return the mean of one figure over all steps of the points."""
    return sum(point.steps * point.entry[name] for point in points) / sum(point.steps for point in points)


class HealthWarnings(TrainerCallback):
    """Trainer callback that warns of each problem once per stage, and adds it to the log entry, under `"warnings"`.

    `health_warnings=False` in the trainer's arguments switches the warnings off. The callback also makes the trainer
    log the first step, whatever `logging_steps` is, so that the log shows where the stage started.

    Args:
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings.
    """

    def __init__(self, embedding_norm: float) -> None:
        self.embedding_norm = embedding_norm

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Make the trainer log the first step."""
        if state.global_step == 1 and args.logging_strategy != "no":
            control.should_log = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Apply the rules to the log so far."""
        if not getattr(args, "health_warnings", True) or "loss" not in state.log_history[-1]:
            return
        facts = StageFacts(
            max_steps=state.max_steps,
            rows_per_step=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            learning_rate=args.learning_rate,
            embedding_norm=self.embedding_norm,
        )
        warned = {name for entry in state.log_history for name in entry.get(WARNINGS, ())}
        new = {name: text for name, text in findings(state.log_history, facts).items() if name not in warned}
        if new:
            state.log_history[-1][WARNINGS] = new
        if state.is_world_process_zero:
            for message in new.values():
                logger.warning(message)


class StopAtNaN(TrainerCallback):
    """Trainer callback that ends training once the vectors are NaN or infinite, or their norm overflows.

    It runs before the checkpoint of that step is written, so that such vectors are never saved.

    Args:
        vectors (`Callable[[], torch.Tensor]`):
            Returns the vectors as they are now, `(num_virtual_tokens, hidden_size)`.
    """

    def __init__(self, vectors: Callable[[], torch.Tensor]) -> None:
        self._vectors = vectors

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the vectors.

        Raises:
            TrainingError: the vectors are not finite.
        """
        if torch.isfinite(torch.linalg.vector_norm(whole(self._vectors()).float())):
            return
        from policy_patch.training.checkpoints import last_checkpoint

        good = last_checkpoint(args.output_dir)
        raise TrainingError(
            f"Training diverged: after step {state.global_step} of {state.max_steps} the vectors are no longer finite. "
            + (f"They were not saved; the last good checkpoint is `{good}`. " if good else "Nothing was saved. ")
            + f"Lower `learning_rate` (it is {args.learning_rate:g}) or `max_grad_norm` (it is {args.max_grad_norm:g}),"
            " or set `max_vector_norm`, for example to 3, and start again with another `output_dir`."
        )

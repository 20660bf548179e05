"""What tells from the log that training is not going well, and what to do then: the rules, and who applies them.

The rules see nothing but log entries. They warn; the one thing that stops training is a patch that is no longer finite.
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
WARNINGS = "warnings"  # key of a log entry: what was warned of then

# All chosen by looking at runs on two miniature bases, of 1M and 6M parameters. Good: 61 SFT and 110 DPO stages, at
# learning rates of 3e-3 to 3e-2 and 3e-4 to 8e-3. Bad: the lab's recipe at rates of 1e-7, 1e-5, 1 and 10, and with
# chosen and rejected exchanged in half of the pairs, also at beta 5 and 50.
_LEAST_DISTANCE = 0.005  # from half of the steps on; good: 0.026 and more, bad: 0.002 and less
_LARGEST_RISE = 1.5  # of the smoothed loss over its start; good: 1.03 and less, bad: 2.1 and more
_AROUND_CHANCE = 0.1  # from 0.5, in reward accuracy; good: 0.72 and more, a teacher as reference: 0.35 and less
_LARGEST_NORM = 20.0  # in token embeddings; good: 2 and less (a rate of 0.1 still learns: 5), bad: 24 and more

_START_ROWS = 16  # the loss of fewer rows is too noisy to call it a start
_CHANCE_ROWS = 48  # so is the accuracy of fewer
_FEWEST_ENTRIES = 3


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """What the rules must know of a stage beside its log.

    Args:
        max_steps (`int`):
            Steps of the whole stage.
        rows_per_step (`int`):
            Rows that one step sees, in all processes together.
        learning_rate (`float`):
            As given, without its schedule.
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings.
    """

    max_steps: int
    rows_per_step: int
    learning_rate: float
    embedding_norm: float


@dataclass(frozen=True)
class _Point:
    """One log entry of training, with the number of steps that it is the mean of."""

    step: int
    steps: int
    entry: dict[str, Any]


def findings(entries: Sequence[dict[str, Any]], facts: StageFacts) -> dict[str, str]:
    """Return what is wrong after the last of these log entries, each with its remedy.

    Args:
        entries (`Sequence[dict]`):
            `trainer.state.log_history` of one stage so far.
        facts ([`StageFacts`]):
            The rest that must be known.

    Returns:
        `dict[str, str]`: By `"still"`, `"rising"`, `"chance"` and `"long"` a message for people; empty if all is well.
    """
    logged = [entry for entry in entries if "loss" in entry]
    befores = [0, *(entry["step"] for entry in logged)]
    points = [_Point(entry["step"], max(1, entry["step"] - before), entry) for entry, before in zip(logged, befores)]
    found = {name: rule(points, facts) for name, rule in _RULES.items()} if points else {}
    return {name: message for name, message in found.items() if message}


def _still(points: list[_Point], facts: StageFacts) -> str | None:
    """The loss does not move because the vectors do not: a loss alone is too noisy to say so of good or bad runs."""
    last = points[-1]
    distance = last.entry[DISTANCE]
    if len(points) < _FEWEST_ENTRIES or 2 * last.step < facts.max_steps or distance >= _LEAST_DISTANCE:
        return None
    return (
        f"The loss does not move: {points[0].entry['loss']:.3f} at step {points[0].step}, {last.entry['loss']:.3f} at "
        f"step {last.step} of {facts.max_steps}, with vectors {100 * distance:.2g}% from where they started. Raise "
        f"`learning_rate` (it is {facts.learning_rate:g}; 1e-2 for SFT and 5e-3 for DPO are usual), or train for more "
        "steps."
    )


def _rising(points: list[_Point], facts: StageFacts) -> str | None:
    """The loss is well above its start, for DPO above ln 2, where a policy equal to its reference starts."""
    number = 1
    while number < len(points) and points[number - 1].step * facts.rows_per_step < _START_ROWS:
        if abs(points[0].entry["loss"] - math.log(2)) < 1e-3:  # exact, however few rows
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
        f"`learning_rate` (it is {facts.learning_rate:g}){beta}, raise `warmup_steps`, or set `max_grad_norm` lower."
    )


def _chance(points: list[_Point], facts: StageFacts) -> str | None:
    """DPO cannot tell chosen from rejected, from a quarter of the stage on. At a margin of 0 accuracy says nothing."""
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
        f"The reward accuracy stays at chance: {accuracy:.2f} over the steps to {last.step} of {facts.max_steps}. Look "
        "at the pairs: `chosen` must be the better answer in each row, by a clear margin (raise `min_margin` when "
        "sampling them). If they are right, raise `learning_rate` "
        f"(it is {facts.learning_rate:g}) or train for more steps."
    )


def _long(points: list[_Point], facts: StageFacts) -> str | None:
    """The vectors leave the scale of all that the base has ever read. Behind a normalisation no loss shows it."""
    norm = points[-1].entry[NORM]
    if norm <= _LARGEST_NORM * facts.embedding_norm:
        return None
    return (
        f"The vectors grow out of all proportion: their mean norm is {norm:.3g} at step {points[-1].step}, "
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
    """Return the mean of one figure over all the steps that the points stand for."""
    return sum(point.steps * point.entry[name] for point in points) / sum(point.steps for point in points)


class HealthWarnings(TrainerCallback):
    """Trainer callback that warns of each finding once a stage, and notes it in the log entry, under `"warnings"`.

    Not with `health_warnings=False` in the trainer's arguments. It also has the first step logged, whatever
    `logging_steps` is: without it nobody sees where a stage started.

    Args:
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings.
    """

    def __init__(self, embedding_norm: float) -> None:
        self.embedding_norm = embedding_norm

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a log entry of the first step."""
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
        told = {name for entry in state.log_history for name in entry.get(WARNINGS, ())}
        new = {name: text for name, text in findings(state.log_history, facts).items() if name not in told}
        if new:
            state.log_history[-1][WARNINGS] = new
        if state.is_world_process_zero:
            for message in new.values():
                logger.warning(message)


class StopAtNaN(TrainerCallback):
    """Trainer callback that ends training at the step after which the vectors are NaN, infinite or too long to square.

    It comes before the checkpoint of that step, so that none of it is saved.

    Args:
        vectors (`Callable[[], torch.Tensor]`):
            Returns the vectors as they are now, `(num_virtual_tokens, hidden_size)`.
    """

    def __init__(self, vectors: Callable[[], torch.Tensor]) -> None:
        self._vectors = vectors

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the vectors.

        Raises:
            TrainingError: they are not finite.
        """
        if torch.isfinite(torch.linalg.vector_norm(whole(self._vectors()).float())):
            return
        from policy_patch.training.checkpoints import last_checkpoint

        good = last_checkpoint(args.output_dir)
        raise TrainingError(
            f"Training diverged: after step {state.global_step} of {state.max_steps} the vectors are no longer finite. "
            + (f"Nothing of it was saved; the last good checkpoint is `{good}`. " if good else "Nothing was saved. ")
            + f"Lower `learning_rate` (it is {args.learning_rate:g}) or `max_grad_norm` (it is {args.max_grad_norm:g}),"
            " or set `max_vector_norm`, for example to 3, and start again with another `output_dir`."
        )

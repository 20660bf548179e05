"""The first stage: cross-entropy on the teacher's answers (arXiv 2511.08484), with TRL's `SFTTrainer`.

The second stage is in `dpo.py`; code of both stages is in `_trl.py`.
"""

from typing import Any

import torch

from policy_patch.answers.eval_mode import evaluating
from policy_patch.training._trl import IGNORED, PatchTrainerMixin
from policy_patch.training.dataset import (
    FINISHED,
    as_dataset,
    as_prompt_completion,
    check_chat_template,
    check_eval_rows,
    check_rows,
    note_training,
    prepare_rows,
    room_for_text,
    without_eos_after_unfinished,
)
from policy_patch.training.distillation import distillation_loss
from policy_patch.training.settings import check_args, check_smoothing
from policy_patch.training.teacher import Teacher, check_teacher, loaded

from trl import SFTConfig, SFTTrainer  # isort: skip  (after `_trl`, whose version check has a clearer error)


class PolicyPatchSFTTrainer(PatchTrainerMixin, SFTTrainer):
    """TRL's `SFTTrainer` for the one trainable patch of a [`~policy_patch.PolicyPatchModel`].

    Accepts the arguments of `SFTTrainer`. Rows have `prompt` and `completion`, or are preference pairs with or without
    a column `prompt`; then `chosen` is the completion. They hold text or messages. An answer that is marked as
    unfinished gets no end-of-text token.

    Args:
        args ([`PolicyPatchSFTConfig`], *optional*):
            Settings. TRL's `SFTConfig` is accepted, too; then TRL's defaults apply.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            Needed for `args.kl_weight` above 0 only; it then runs at each step, without gradient.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The teacher's tokenizer, to check that it has the base's tokens. Defaults to the one saved with its weights.

    Raises:
        TrainingError: no patch is active and trainable, or `kl_weight` is above 0 without a suitable teacher.
        ConfigError: `args` are settings of another trainer, or have a value that does not work with a patch.
        DataError: there are no rows, or a column is missing.
    """

    _tag_names = ["policy-patch", "sft"]

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        teacher: Teacher | None = None,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ):
        check_args(type(self).__name__, args, SFTConfig, kwargs.get("peft_config"))
        self.teacher = None
        if getattr(args, "kl_weight", 0):
            check_smoothing(args, instead="Leave it at 0, or set `kl_weight=0`.")
            self.teacher = loaded(teacher)
            tokenizers = {"tokenizer": kwargs.get("processing_class"), "teacher_tokenizer": teacher_tokenizer}
            wanted_by, instead = f"`kl_weight={args.kl_weight}`", "`kl_weight=0`"
            check_teacher(model, self.teacher, wanted_by, instead, **tokenizers, same_width=True)
        train_dataset = as_dataset(train_dataset)
        check_rows(train_dataset, ())
        given, train_dataset = train_dataset, as_prompt_completion(train_dataset)
        check_rows(train_dataset, ("prompt", "completion"))
        eval_dataset = as_prompt_completion(as_dataset(eval_dataset)) if eval_dataset is not None else None
        check_eval_rows(eval_dataset, ("prompt", "completion"))
        self._room = room_for_text(model)
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        note_training(self.model, self.patch_name, given)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss, or the loss of [`~policy_patch.training.distillation`] if `args.kl_weight` is above 0."""
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = {name: value for name, value in inputs.items() if name != "use_cache"}
        labels = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        with torch.no_grad(), evaluating(self.teacher):
            there = {name: value.to(self.teacher.device) for name, value in inputs.items()}
            teacher_logits = self.teacher(**there, use_cache=False).logits
        loss, parts = distillation_loss(
            outputs.logits, teacher_logits.to(outputs.logits.device), labels, self.args.kl_weight
        )
        tokens = (labels[:, 1:] != -100).sum()
        mode = "train" if model.training else "eval"
        self.note(
            mode, kl=parts["kl"] / tokens, nll=parts["nll"] / tokens, mean_token_accuracy=parts["correct"] / tokens
        )
        loss = loss / torch.as_tensor(tokens if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is over all processes, but gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *more: Any) -> Any:
        dataset = as_prompt_completion(dataset)
        check_chat_template(dataset, processing_class)
        trl_prepare = super()._prepare_dataset
        dataset = prepare_rows(
            lambda rows: trl_prepare(rows, processing_class, args, *more), dataset, _tokens_of,
            room=self._room, max_length=args.max_length,
        )  # fmt: skip
        columns = {FINISHED["completion"]: ["input_ids", "labels"]}
        return without_eos_after_unfinished(
            dataset, columns, self._tokenizer.eos_token_id, processing_class, self.chat_template
        )


def _tokens_of(row: dict[str, Any]) -> dict[str, int]:
    prompt = next((index for index, label in enumerate(row["labels"]) if label != IGNORED), len(row["labels"]))
    return {"prompt": prompt, "completion": len(row["input_ids"]) - prompt}

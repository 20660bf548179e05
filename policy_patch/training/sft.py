"""The first stage: cross-entropy on the teacher's answers (arXiv 2511.08484), with TRL's `SFTTrainer`."""

from typing import Any

import torch

from policy_patch.data.sampling import evaluating
from policy_patch.training._trl import PatchTrainerMixin
from policy_patch.training.dataset import (
    FINISHED,
    as_dataset,
    as_prompt_completion,
    check_rows,
    without_eos_after_unfinished,
)
from policy_patch.training.distillation import distillation_loss
from policy_patch.training.dpo import check_teacher

from trl import SFTTrainer  # isort: skip  (after `_trl`, whose version check explains itself better)


class PolicyPatchSFTTrainer(PatchTrainerMixin, SFTTrainer):
    """TRL's `SFTTrainer` for the one trainable patch of a [`~policy_patch.PolicyPatchModel`].

    Takes what `SFTTrainer` takes. Rows have `prompt` and `completion`, or are preference pairs, of which `chosen` is
    the completion; a row with `finished=False` gets no end-of-text token.

    Args:
        teacher ([`~transformers.PreTrainedModel`], *optional*):
            Needed for `args.kl_weight` above 0 only; it then runs at each step, without gradient.

    Raises:
        TrainingError: no patch of the model is active and trainable, or `kl_weight` without a fitting teacher.
        DataError: no rows, or a column is missing.
    """

    _tag_names = ["policy-patch", "sft"]

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        teacher: Any = None,
        **kwargs: Any,
    ):
        self.teacher = teacher if getattr(args, "kl_weight", 0) else None
        if getattr(args, "kl_weight", 0):
            check_teacher(model, teacher, f"`kl_weight={args.kl_weight}`", "`kl_weight=0`")
        train_dataset = as_dataset(train_dataset)
        check_rows(train_dataset, ())
        train_dataset = as_prompt_completion(train_dataset)
        check_rows(train_dataset, ("prompt", "completion"))
        eval_dataset = as_prompt_completion(as_dataset(eval_dataset)) if eval_dataset is not None else None
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss, or with `args.kl_weight` that of [`~policy_patch.training.distillation`]."""
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
            loss = loss * self.accelerator.num_processes  # the count is over all processes; gradients are averaged
        return (loss, outputs) if return_outputs else loss

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = super()._prepare_dataset(dataset, *args, **kwargs)
        columns = {FINISHED["completion"]: ["input_ids", "labels"]}
        return without_eos_after_unfinished(dataset, columns, self._tokenizer.eos_token_id)

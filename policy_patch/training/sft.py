"""The first stage: cross-entropy on the teacher's answers (arXiv 2511.08484), with TRL's `SFTTrainer`."""

from typing import Any

from policy_patch.training._trl import PatchTrainerMixin
from policy_patch.training.dataset import (
    FINISHED,
    as_dataset,
    as_prompt_completion,
    check_rows,
    without_eos_after_unfinished,
)

from trl import SFTTrainer  # isort: skip  (after `_trl`, whose version check explains itself better)


class PolicyPatchSFTTrainer(PatchTrainerMixin, SFTTrainer):
    """TRL's `SFTTrainer` for the one trainable patch of a [`~policy_patch.PolicyPatchModel`].

    Takes what `SFTTrainer` takes. Rows have `prompt` and `completion`, or are preference pairs, of which `chosen` is
    the completion; a row with `finished=False` gets no end-of-text token.

    Raises:
        TrainingError: no patch of the model is active and trainable.
        DataError: no rows, or a column is missing.
    """

    _tag_names = ["policy-patch", "sft"]

    def __init__(self, model: Any, args: Any = None, *, train_dataset: Any, eval_dataset: Any = None, **kwargs: Any):
        train_dataset = as_dataset(train_dataset)
        check_rows(train_dataset, ())
        train_dataset = as_prompt_completion(train_dataset)
        check_rows(train_dataset, ("prompt", "completion"))
        eval_dataset = as_prompt_completion(as_dataset(eval_dataset)) if eval_dataset is not None else None
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = super()._prepare_dataset(dataset, *args, **kwargs)
        columns = {FINISHED["completion"]: ["input_ids", "labels"]}
        return without_eos_after_unfinished(dataset, columns, self._tokenizer.eos_token_id)

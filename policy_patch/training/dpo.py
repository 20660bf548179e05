"""The second stage: DPO that prefers the teacher's answer over the base's (arXiv 2511.08484), with TRL's `DPOTrainer`.

The reference policy never costs a second copy of the base: see `reference_model`.
"""

from copy import copy
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from policy_patch.errors import TrainingError
from policy_patch.model import PolicyPatchModel
from policy_patch.training._trl import (
    PatchTrainerMixin,
    drop_fused_head,
    score_labels_only,
    settings_restored,
    trained_patch_name,
)
from policy_patch.training.config import PolicyPatchDPOConfig
from policy_patch.training.dataset import FINISHED, as_dataset, check_rows, without_eos_after_unfinished

from trl import DPOTrainer  # isort: skip  (after `_trl`, whose version check explains itself better)


class PolicyPatchDPOTrainer(PatchTrainerMixin, DPOTrainer):
    """TRL's `DPOTrainer` for the one trainable patch of a [`~policy_patch.PolicyPatchModel`].

    Takes what `DPOTrainer` takes, with `args` a [`PolicyPatchDPOConfig`]. Rows have `prompt`, `chosen` and `rejected`;
    an answer marked as not finished gets no end-of-text token.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            Its one active, trainable patch is trained.
        args ([`PolicyPatchDPOConfig`]):
            Settings; `args.reference` chooses the reference policy.
        teacher ([`~transformers.PreTrainedModel`], *optional*):
            Needed for `reference="teacher"` only; it is not kept after the constructor.

    Raises:
        TrainingError: no patch is active and trainable, or `reference="teacher"` without a fitting teacher.
        DataError: no rows, or a column is missing.
    """

    _tag_names = ["policy-patch", "dpo"]

    def __init__(
        self,
        model: PolicyPatchModel,
        args: PolicyPatchDPOConfig,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        teacher: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        trained_patch_name(model)  # before the reference is made of it
        train_dataset, eval_dataset = as_dataset(train_dataset), as_dataset(eval_dataset)
        check_rows(train_dataset, ("prompt", "chosen", "rejected"))
        if args.precompute_ref_log_probs is None:
            args = copy(args)
            args.precompute_ref_log_probs = sees_every_row(args, len(train_dataset))
        with settings_restored(model):
            reference = reference_model(model, args, teacher)
            with settings_restored(reference):
                super().__init__(
                    model,
                    args=args,
                    ref_model=reference,
                    train_dataset=train_dataset,
                    eval_dataset=eval_dataset,
                    **kwargs,
                )
        if self.ref_model is not None:
            score_labels_only(self.accelerator.unwrap_model(self.ref_model))
        if args.precompute_ref_log_probs:  # done by now: the reference need not stay in memory
            self.release_reference()

    def release_reference(self) -> None:
        """Forget the reference policy, and take it off the base. Nothing can be trained or evaluated after it, unless
        the reference was asked beforehand."""
        reference = self.ref_model
        if reference is None:
            return
        self.ref_model = None
        # accelerate 1.15 keeps every model it prepared, with no public way to forget one of them.
        self.accelerator._models = [kept for kept in self.accelerator._models if kept is not reference]
        reference = self.accelerator.unwrap_model(reference)
        drop_fused_head(reference)
        if isinstance(reference, PolicyPatchModel):
            reference.unload()

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        reference = self.accelerator.unwrap_model(self.ref_model)
        score_labels_only(reference)
        if isinstance(reference, PolicyPatchModel):
            # TRL keeps the figures under a hash of the weights alone; where the vectors stand matters as well.
            stack = [(name, reference.patch_config[name].placement) for name in reference.active_patches]
            self._precompute_model_hash = f"{self._precompute_model_hash} behind {stack}"
        if not isinstance(dataset, Dataset) or dataset.cache_files:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        # TRL lets the main process write a file for all; for rows in memory each would look for another one.
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        found = [
            self.accelerator.gather_for_metrics(self.compute_ref_log_probs(self.ref_model, rows)) for rows in loader
        ]
        for column, parts in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*found)):
            dataset = dataset.add_column(column, torch.cat(parts).float().cpu().numpy())
        return dataset

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = super()._prepare_dataset(dataset, *args, **kwargs)
        columns = {FINISHED[name]: [f"{name}_ids"] for name in ("chosen", "rejected")}
        return without_eos_after_unfinished(dataset, columns, self._tokenizer.eos_token_id)


def sees_every_row(args: PolicyPatchDPOConfig, num_rows: int) -> bool:
    """Whether training of `num_rows` rows comes to an end no sooner than after one epoch."""
    if args.max_steps <= 0:
        return args.num_train_epochs >= 1
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return args.max_steps * rows_per_step >= num_rows


def reference_model(
    model: PolicyPatchModel, args: PolicyPatchDPOConfig, teacher: PreTrainedModel | None = None
) -> PolicyPatchModel | PreTrainedModel:
    """Return DPO's reference policy for `args.reference`.

    Returns:
        For `"sft"` a second wrapper on the same base with a frozen copy of the patch; for `"base"` a second wrapper
        without any patch; for `"teacher"` the teacher.

    Raises:
        TrainingError: `reference="teacher"` without a teacher, or with one of another vocabulary.
    """
    if args.reference == "teacher":
        check_teacher(model, teacher)
        return teacher
    return model.frozen_copy() if args.reference == "sft" else PolicyPatchModel(model.get_base_model())


def check_teacher(
    model: PolicyPatchModel,
    teacher: PreTrainedModel | None,
    wanted_by: str = '`reference="teacher"`',
    instead: str = '`reference="sft"` or "base"',
) -> None:
    """Raise `TrainingError` unless the probabilities of `teacher` can be compared with those of the base of `model`."""
    if teacher is None:
        raise TrainingError(f"{wanted_by} needs `teacher=`. Give it, or use {instead}.")
    sizes = [m.get_input_embeddings().weight.shape[0] for m in (model.get_base_model(), teacher)]
    if sizes[0] != sizes[1]:
        raise TrainingError(
            f"{wanted_by} compares probabilities token by token, so both need one vocabulary; the base has {sizes[0]} "
            f"tokens and the teacher {sizes[1]}. Use {instead}."
        )

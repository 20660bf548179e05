"""The second stage: DPO that prefers the teacher's answer over the base's (arXiv 2511.08484), with TRL's `DPOTrainer`.

The reference policy never needs a second copy of the base: see `reference_model`.
"""

from copy import copy
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.utils import logging

from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.training._trl import (
    PatchTrainerMixin,
    drop_fused_head,
    score_labels_only,
)
from policy_patch.training.config import PolicyPatchDPOConfig
from policy_patch.training.dataset import (
    FINISHED,
    as_dataset,
    check_chat_template,
    check_eval_rows,
    check_rows,
    note_training,
    prepare_rows,
    room_for_text,
    with_explicit_prompts,
    without_eos_after_unfinished,
)
from policy_patch.training.patch_alone import trained_patch_name
from policy_patch.training.processes import is_sharded
from policy_patch.training.reference import shared_reference
from policy_patch.training.restored import settings_restored
from policy_patch.training.settings import check_args, check_smoothing
from policy_patch.training.teacher import Teacher, check_teacher, loaded

from trl import DPOConfig, DPOTrainer  # isort: skip  (after `_trl`, whose version check has a clearer error)


class PolicyPatchDPOTrainer(PatchTrainerMixin, DPOTrainer):
    """TRL's `DPOTrainer` for the one trainable patch of a [`~policy_patch.PolicyPatchModel`].

    Accepts the arguments of `DPOTrainer`, except `ref_model`. Rows have `chosen` and `rejected`, with or without a
    column `prompt`, as text or as messages. An answer that is marked as unfinished gets no end-of-text token.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The model. It must have exactly one active, trainable patch, which is trained.
        args ([`PolicyPatchDPOConfig`]):
            Settings; `args.reference` chooses the reference policy. TRL's `DPOConfig` is accepted, too; then TRL's
            defaults apply, and the reference is `"sft"`.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            Needed for `reference="teacher"` only; it is not kept after the constructor.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The teacher's tokenizer, to check that it has the base's tokens. Defaults to the one saved with its weights.

    Raises:
        TrainingError: no patch is active and trainable, or `reference="teacher"` has no suitable teacher.
        ConfigError: `args` are settings of another trainer, or have a value that does not work with a patch.
        DataError: there are no rows, or a column is missing.
    """

    _tag_names = ["policy-patch", "dpo"]

    def __init__(
        self,
        model: PolicyPatchModel,
        args: PolicyPatchDPOConfig,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        teacher: Teacher | None = None,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_args(type(self).__name__, args, DPOConfig, kwargs.get("peft_config"))
        check_smoothing(args, instead="Leave it at 0, and set DPO's own `label_smoothing`.")
        if kwargs.pop("ref_model", None) is not None:
            raise TrainingError(
                "`ref_model` is given, but PolicyPatchDPOTrainer makes its own reference. Choose it with "
                '`args.reference`. To use another model, give it as `teacher=` with `reference="teacher"`.'
            )
        patch_name = trained_patch_name(model)  # checks the model before the reference is made from it
        train_dataset, eval_dataset = as_dataset(train_dataset), as_dataset(eval_dataset)
        check_rows(train_dataset, ("chosen", "rejected"))
        check_eval_rows(eval_dataset, ("chosen", "rejected"))
        note_training(model, patch_name, train_dataset)
        self._room = room_for_text(model)
        sharded = is_sharded(args)
        beforehand = args.precompute_ref_log_probs
        if beforehand is None:
            beforehand = sees_every_row(args, len(train_dataset))
        args = copy(args)
        args.reference = getattr(args, "reference", "sft")  # TRL's `DPOConfig` has no such field
        if sharded and args.reference != "teacher":
            beforehand = False  # the base is not sharded yet
        args.precompute_ref_log_probs = False  # TRL would hash all weights, and cannot for 8-bit or offloaded ones
        with settings_restored(model):
            tokenizers = {"tokenizer": kwargs.get("processing_class"), "teacher_tokenizer": teacher_tokenizer}
            reference = reference_model(model, args, teacher, **tokenizers)
            if sharded and args.reference != "teacher":
                hide_base(reference)
            with settings_restored(reference):
                super().__init__(
                    model,
                    args=args,
                    ref_model=reference,
                    train_dataset=train_dataset,
                    eval_dataset=eval_dataset,
                    **kwargs,
                )
                score_labels_only(self.accelerator.unwrap_model(self.ref_model))
                if beforehand:
                    self._precompute_reference()

    def release_reference(self) -> None:
        """Free the reference policy and remove its hooks from the base.

        Training and evaluation fail after that, unless the reference's log-probabilities were precomputed.
        """
        reference = self.ref_model
        if reference is None:
            return
        self.ref_model = None
        # accelerate 1.15 keeps every model that it prepared, and has no public method to release a single one.
        self.accelerator._models = [kept for kept in self.accelerator._models if kept is not reference]
        reference = self.accelerator.unwrap_model(reference)
        drop_fused_head(reference)
        if isinstance(reference, PolicyPatchModel):
            reference.unload()

    def _precompute_reference(self) -> None:
        """Compute the reference's log-probabilities of all rows, then release the reference."""
        args = self.args
        args.precompute_ref_log_probs = self.precompute_ref_logps = True
        size = args.precompute_ref_batch_size or args.per_device_train_batch_size
        self.train_dataset = self._precompute_ref_logps(self.train_dataset, "train", size)
        size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        if isinstance(self.eval_dataset, dict):
            sets = self.eval_dataset.items()
            self.eval_dataset = {name: self._precompute_ref_logps(rows, name, size) for name, rows in sets}
        elif self.eval_dataset is not None:
            self.eval_dataset = self._precompute_ref_logps(self.eval_dataset, "eval", size)
        self.release_reference()

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        # TRL's method shares the results by a file whose name is equal in all processes only if the rows are on disk.
        if self.ref_model is None:
            raise TrainingError(
                "The reference's log-probabilities were computed before training, and the reference is no longer in "
                "memory. Give the rows to evaluate as `eval_dataset`, or set `precompute_ref_log_probs=False`."
            )
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        silent = self.args.disable_tqdm or not self.accelerator.is_local_main_process
        found = [
            self.accelerator.gather_for_metrics(self.compute_ref_log_probs(self.ref_model, rows))
            for rows in logging.tqdm(loader, desc=f"Reference log-probabilities, {name} rows", disable=silent)
        ]
        for column, parts in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*found)):
            dataset = dataset.add_column(column, torch.cat(parts).float().cpu().numpy())
        return dataset

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *more: Any) -> Any:
        dataset = with_explicit_prompts(dataset)
        check_chat_template(dataset, processing_class)
        trl_prepare = super()._prepare_dataset

        def tokens_of(row: dict[str, Any]) -> dict[str, int]:
            prompt, *answers = (len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected"))
            most = prompt + max(answers) if args.max_length is None else args.max_length  # the collator truncates rows
            return {"prompt": min(prompt, most), "answer": min(max(answers), most - min(prompt, most))}

        dataset = prepare_rows(
            lambda rows: trl_prepare(rows, processing_class, args, *more), dataset, tokens_of,
            room=self._room, max_length=args.max_length,
        )  # fmt: skip
        columns = {FINISHED[name]: [f"{name}_ids"] for name in ("chosen", "rejected")}
        return without_eos_after_unfinished(dataset, columns, self._tokenizer.eos_token_id, processing_class)


def sees_every_row(args: PolicyPatchDPOConfig, num_rows: int) -> bool:
    """Return whether training on `num_rows` rows lasts for at least one epoch."""
    if args.max_steps <= 0:
        return args.num_train_epochs >= 1
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return args.max_steps * rows_per_step >= num_rows


def hide_base(reference: PolicyPatchModel) -> None:
    """Hide the base of `reference` from TRL. It is the policy's base, and TRL would shard it a second time."""
    vars(reference)["_base_model"] = reference._modules.pop("_base_model")  # an attribute, but no submodule
    if not reference.patches:  # DeepSpeed does not accept a module without a parameter
        reference.register_parameter("nothing", nn.Parameter(torch.zeros(1), requires_grad=False))


def reference_model(
    model: PolicyPatchModel, args: PolicyPatchDPOConfig, teacher: Teacher | None = None, **tokenizers: Any
) -> PolicyPatchModel | PreTrainedModel:
    """Return DPO's reference policy for `args.reference`.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The policy.
        args ([`PolicyPatchDPOConfig`]):
            Settings.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            Needed for `reference="teacher"`.
        tokenizers (*optional*):
            `tokenizer` and `teacher_tokenizer`, as [`~policy_patch.training.teacher.check_teacher`] takes them.

    Returns:
        For `"sft"`, a second wrapper on the same base with a frozen copy of the patch. For `"base"`, a second wrapper
        without a patch. For `"teacher"`, the teacher.

    Raises:
        TrainingError: `reference="teacher"` without a teacher, or the teacher has another vocabulary.
    """
    if args.reference == "teacher":
        teacher = loaded(teacher)
        check_teacher(model, teacher, **tokenizers)
        return teacher
    return shared_reference(model, patched=args.reference == "sft")

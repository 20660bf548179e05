"""`PolicyPatchTrainer`: both stages, one after the other, each picking up where it was interrupted.

A stage's folder holds its checkpoints while it runs and its patch once it is done; the same call on the same folder
goes on from what it finds there.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch.atomic import write_whole
from policy_patch.errors import CheckpointSaveError, PatchNotFoundError, TrainingError
from policy_patch.fingerprint import tokenizer_hash
from policy_patch.model import PolicyPatchModel, set_policy_patch_state_dict
from policy_patch.patch_folder import read_patch_folder
from policy_patch.prefix import TENSOR_KEY, vectors_to_bytes
from policy_patch.training._trl import drop_fused_head, last_checkpoint, trained_patch_name
from policy_patch.training.config import PolicyPatchTrainingConfig
from policy_patch.training.dataset import FINISHED, check_rows
from policy_patch.training.dpo import PolicyPatchDPOTrainer, check_teacher
from policy_patch.training.sft import PolicyPatchSFTTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

logger = logging.get_logger(__name__)

RUN_NAME = "training_run.json"  # what is being trained in a folder, so that another run does not go on from it
LOG_NAME = "training_log.json"


@dataclass
class TrainingLog:
    """What a two-stage run logged: for each stage TRL's log entries (step, loss, rewards, learning rate, ...)."""

    sft: list[dict[str, Any]] = field(default_factory=list)
    dpo: list[dict[str, Any]] = field(default_factory=list)


class PolicyPatchTrainer:
    """Trains a patch in two stages: SFT on the chosen answers, then DPO of chosen over rejected (arXiv 2511.08484).

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            Its one active, trainable patch is trained, in place.
        args ([`PolicyPatchTrainingConfig`]):
            Settings of both stages.
        train_dataset (`datasets.Dataset`):
            Preference pairs: `prompt`, `chosen`, `rejected`, as `build_preference_pairs` makes them.
        eval_dataset (`datasets.Dataset`, *optional*):
            More pairs, for the stages' evaluation losses.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        teacher ([`~transformers.PreTrainedModel`], *optional*):
            Needed for `dpo.reference="teacher"` and for `sft.kl_weight` above 0 only.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Callbacks of both stages' trainers.

    Raises:
        TrainingError: no patch is active and trainable; or the folder holds another run.
        DataError: no rows, or a column is missing.

    Example:

    ```python
    trainer = PolicyPatchTrainer(model, PolicyPatchTrainingConfig(output_dir="tox-patch"), pairs,
                                 processing_class=tokenizer)
    trainer.train()
    ```
    """

    def __init__(
        self,
        model: PolicyPatchModel,
        args: PolicyPatchTrainingConfig,
        train_dataset: "Dataset",
        eval_dataset: "Dataset | None" = None,
        *,
        processing_class: "PreTrainedTokenizerBase",
        teacher: "PreTrainedModel | None" = None,
        callbacks: "Sequence[TrainerCallback]" = (),
    ) -> None:
        self.patch_name = trained_patch_name(model)
        check_rows(train_dataset, ("prompt", "chosen", "rejected") if args.runs("dpo") else ("prompt", "chosen"))
        for stage in ("sft", "dpo"):
            args.stage(stage)  # unknown keys and impossible values are found before hours of training, not between
        if args.runs("dpo") and args.dpo.get("reference") == "teacher":
            check_teacher(model, teacher)
        if args.runs("sft") and args.sft.get("kl_weight"):
            check_teacher(model, teacher, f"`sft.kl_weight={args.sft['kl_weight']}`", "`sft.kl_weight=0`")
        self.model = model
        self.args = args
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self.teacher = teacher
        self.callbacks = list(callbacks)
        fingerprint = model.patch_config[self.patch_name].base_fingerprint
        if fingerprint is not None and fingerprint["tokenizer"] is None:  # the patch was made without its tokenizer
            fingerprint["tokenizer"] = tokenizer_hash(processing_class)
        self._claim_folder()

    def train(self) -> TrainingLog:
        """Run the stages that are not done yet, save the patch in `args.output_dir`, and return what was logged."""
        log = TrainingLog()
        if self.args.runs("sft"):
            log.sft = self.train_sft()
        if self.args.runs("dpo"):
            log.dpo = self.train_dpo()
        self.save_model()
        _write_json(Path(self.args.output_dir, LOG_NAME), asdict(log))
        return log

    def train_sft(self) -> list[dict[str, Any]]:
        """Run the first stage: SFT on the chosen answers. Returns the log entries."""
        return self._run("sft", PolicyPatchSFTTrainer, teacher=self.teacher)

    def train_dpo(self) -> list[dict[str, Any]]:
        """Run the second stage: DPO of the chosen over the rejected answers. Returns the log entries.

        It starts from the first stage's patch if that is in the folder, from the model's patch otherwise.
        """
        self._load_finished(Path(self.args.output_dir, "sft"))
        return self._run("dpo", PolicyPatchDPOTrainer, teacher=self.teacher)

    def save_model(self, output_dir: str | os.PathLike | None = None) -> None:
        """Save the patch in `output_dir`, by default `args.output_dir`."""
        self.model.save_pretrained(output_dir or self.args.output_dir, patch_name=self.patch_name)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish the patch; arguments and result of [`PolicyPatchModel.push_to_hub`]."""
        return self.model.push_to_hub(repo_id, patch_name=self.patch_name, **options)

    def _run(self, stage: str, trainer_class: type, **more: Any) -> list[dict[str, Any]]:
        folder = Path(self.args.output_dir, stage)
        if self._load_finished(folder):
            logger.info(f"The {stage.upper()} stage in {folder} is done; going on from its patch.")
            return _read_log(folder)
        trainer = trainer_class(
            self.model,
            self.args.stage(stage),
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.processing_class,
            callbacks=self.callbacks,
            **more,
        )
        try:
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        finally:
            drop_fused_head(self.model)
            if stage == "dpo":
                trainer.release_reference()
        entries = trainer.state.log_history
        # The log comes first: the patch is what marks the stage as done.
        _write_json(folder / LOG_NAME, entries)
        self.save_model(folder)
        return entries

    def _load_finished(self, folder: Path) -> bool:
        """Load the patch of a stage that was completed before, if there is one."""
        try:
            _, vectors = read_patch_folder(folder)
        except PatchNotFoundError:
            return False
        set_policy_patch_state_dict(self.model, {TENSOR_KEY: vectors}, self.patch_name)
        return True

    def _claim_folder(self) -> None:
        """Note in the folder what is trained there; refuse a folder where something else is."""
        rows = self.train_dataset
        texts = ("prompt", "chosen", "rejected", FINISHED["chosen"], FINISHED["rejected"])
        columns = [name for name in texts if name in rows.column_names]
        data = hashlib.sha256(json.dumps([rows[name][:] for name in columns]).encode())
        vectors = vectors_to_bytes(self.model.patches[self.patch_name])
        run = {
            "sft": self.args.sft,
            "dpo": self.args.dpo,
            "seed": self.args.seed,
            "rows": len(rows),
            "data_sha256": data.hexdigest(),
            "start_sha256": hashlib.sha256(vectors).hexdigest(),
            "base": self.model.config._name_or_path,
        }
        run = json.loads(json.dumps(run, default=str))  # as it will be read back, to compare like with like
        path = Path(self.args.output_dir, RUN_NAME)
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = {key: (before.get(key), run[key]) for key in run if before.get(key) != run[key]}
            if changed:
                words = "; ".join(f"`{key}` was {old}, is now {new}" for key, (old, new) in changed.items())
                raise TrainingError(
                    f"`{self.args.output_dir}` holds another run: {words}. Give another `output_dir`, delete that "
                    "folder, or repeat the settings to go on with its run."
                )
            return
        _write_json(path, run)


def _read_log(folder: Path) -> list[dict[str, Any]]:
    """Return what a finished stage logged; nothing if its log was deleted, which harms no patch."""
    path = folder / LOG_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _write_json(path: Path, values: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(values, indent=1) + "\n").encode())
    except OSError as error:
        raise CheckpointSaveError(
            f"Cannot write `{path}`: {error}. What was there before is intact; free some space or give another "
            "`output_dir`, and run the same command again."
        ) from error

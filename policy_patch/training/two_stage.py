"""`PolicyPatchTrainer`: runs both stages one after the other, and resumes each where it was interrupted.

The folder of a stage holds its checkpoints while it runs, and its patch once it is done. The same call on the same
folder resumes from these files.
"""

import gc
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils import logging

from policy_patch.base.tokenizer_hash import tokenizer_hash
from policy_patch.errors import CheckpointSaveError, ConfigError, PatchNotFoundError, TrainingError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import parse_json, read_text
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.model.state_dict import set_policy_patch_state_dict
from policy_patch.patch.folder import read_patch_folder
from policy_patch.patch.tensor_file import TENSOR_KEY
from policy_patch.patch.vectors import vectors_to_bytes, whole
from policy_patch.privacy.local_names import without_folders
from policy_patch.privacy.redaction import blanked
from policy_patch.training._trl import drop_fused_head
from policy_patch.training.checkpoints import last_checkpoint
from policy_patch.training.company import company_of
from policy_patch.training.config import PolicyPatchTrainingConfig
from policy_patch.training.dataset import check_chat_template, check_pairs, data_hash, note_training
from policy_patch.training.dpo import PolicyPatchDPOTrainer
from policy_patch.training.patch_alone import trained_patch_name
from policy_patch.training.processes import in_main_process, save_patch
from policy_patch.training.report import TrainingReport, data_counts
from policy_patch.training.sft import PolicyPatchSFTTrainer
from policy_patch.training.teacher import BY_REFERENCE, Teacher, check_teacher
from policy_patch.training.trackers import name_run, separate_run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainerCallback

logger = logging.get_logger(__name__)

RUN_NAME = "training_run.json"  # says which run uses a folder, so that another run is refused there
LOG_NAME = "training_log.json"
_LARGEST_JSON = 2**28  # bytes of such a file; chosen by us


@dataclass
class TrainingLog:
    """The log of a two-stage run: TRL's log entries of each stage (step, loss, rewards, learning rate and more)."""

    sft: list[dict[str, Any]] = field(default_factory=list)
    dpo: list[dict[str, Any]] = field(default_factory=list)


class PolicyPatchTrainer:
    """Trains a patch in two stages (arXiv 2511.08484): SFT on the chosen answers, then DPO on the preference pairs.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The model. It must have exactly one active, trainable patch, which is trained in place.
        args ([`PolicyPatchTrainingConfig`]):
            Settings of both stages.
        train_dataset (`datasets.Dataset`):
            Preference pairs with `prompt`, `chosen` and `rejected`, as made by `build_preference_pairs`. TRL's other
            formats are accepted, too: messages, pairs without a column `prompt`, and `prompt` with `completion` if only
            the SFT stage runs.
        eval_dataset (`datasets.Dataset`, *optional*):
            More rows of this kind, for the evaluation losses.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            Needed only for `dpo.reference="teacher"` and for `sft.kl_weight` above 0. The DPO stage runs it before the
            first step, then releases it. A function is called only when the teacher is needed.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The teacher's tokenizer, to check that it has the base's tokens. Defaults to the one saved with its weights.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Callbacks of both stages' trainers.

    Raises:
        TrainingError: no patch is active and trainable, the teacher is missing or does not fit, or `args.output_dir`
            holds another run.
        ConfigError: `args` is not a `PolicyPatchTrainingConfig`, or has an unknown key or an impossible value.
        DataError: there are no rows, or a column is missing.

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
        teacher: Teacher | None = None,
        teacher_tokenizer: "PreTrainedTokenizerBase | None" = None,
        callbacks: "Sequence[TrainerCallback]" = (),
    ) -> None:
        if not isinstance(args, PolicyPatchTrainingConfig):
            raise ConfigError(
                f"`args` is a {type(args).__name__}; expected a `PolicyPatchTrainingConfig`. Its fields `sft` and "
                "`dpo` take the settings of the two stages as dicts. To run one stage only, use "
                "`PolicyPatchSFTTrainer` or `PolicyPatchDPOTrainer`."
            )
        self.patch_name = trained_patch_name(model)
        check_pairs(train_dataset, eval_dataset, dpo=args.runs("dpo"))
        check_chat_template(train_dataset, processing_class)
        for stage in ("sft", "dpo"):
            args.stage(stage)  # raises for unknown keys and impossible values of both stages before any training
        tokenizers = {"tokenizer": processing_class, "teacher_tokenizer": teacher_tokenizer}
        if args.runs("dpo") and args.dpo.get("reference") == "teacher":
            check_teacher(model, teacher, *BY_REFERENCE, **tokenizers)
        if args.runs("sft") and args.sft.get("kl_weight"):
            wanted_by, instead = f"`sft.kl_weight={args.sft['kl_weight']}`", "`sft.kl_weight=0`"
            check_teacher(model, teacher, wanted_by, instead, **tokenizers, same_width=True)
        self.model = model
        self.args = args
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self.teacher = teacher
        self.teacher_tokenizer = teacher_tokenizer
        self.callbacks = list(callbacks)
        self._start = whole(model.patches[self.patch_name]).detach().clone()
        fingerprint = model.patch_config[self.patch_name].base_fingerprint
        if fingerprint is not None and fingerprint["tokenizer"] is None:  # the patch was made without a tokenizer
            fingerprint["tokenizer"] = tokenizer_hash(processing_class)
        note_training(model, self.patch_name, train_dataset)
        # Loaded now: a trainer may shard the weights, and then no patch can be checked against the base.
        stages = [stage for stage in ("sft", "dpo") if args.runs(stage)]
        self._company = {stage: company_of(model, args.stage(stage), processing_class) for stage in stages}
        self._keep_folder_to_this_run()

    def train(self) -> TrainingLog:
        """Run the stages that are not done yet, save the patch in `args.output_dir`, and return the log of both.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved. The same call resumes from it.
            TrainingError: training diverged, or a file of an earlier run is damaged.
            CheckpointSaveError: a checkpoint or a log cannot be written.
        """
        log = TrainingLog()
        if self.args.runs("sft"):
            log.sft = self.train_sft()
        if self.args.runs("dpo"):
            log.dpo = self.train_dpo()
        self.save_model()
        in_main_process(lambda: _write_json(Path(self.args.output_dir, LOG_NAME), asdict(log)))
        return log

    def train_sft(self) -> list[dict[str, Any]]:
        """Run the first stage, SFT on the chosen answers, and return its log entries."""
        return self._run("sft")

    def train_dpo(self) -> list[dict[str, Any]]:
        """Run the second stage, DPO on the preference pairs, and return its log entries.

        It starts from the first stage's patch if the folder holds one. Otherwise it starts from the vectors that the
        patch had when this trainer was created.
        """
        return self._run("dpo")

    def save_model(self, output_dir: str | os.PathLike | None = None) -> None:
        """Save the patch in `output_dir`, by default `args.output_dir`.

        Raises:
            PatchSaveError, PatchFileError: the patch cannot be written.
        """
        save_patch(self.model, self.patch_name, output_dir or self.args.output_dir)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish the patch; arguments, result and errors as of [`PolicyPatchModel.push_to_hub`].

        If there are several processes, all must call it. The main process publishes; the others get None.
        """
        published: list[Any] = []
        in_main_process(
            lambda: published.append(self.model.push_to_hub(repo_id, patch_name=self.patch_name, **options))
        )
        return published[0] if published else None

    def _run(self, stage: str) -> list[dict[str, Any]]:
        folder = Path(self.args.output_dir, stage)
        if self._load_finished(folder):
            logger.info(f"The {stage.upper()} stage in {folder} is already done; its patch is used.")
            return _read_log(folder)
        if stage == "sft" or not self._load_finished(Path(self.args.output_dir, "sft")):
            # An earlier attempt at this stage in this process may have changed the vectors.
            set_policy_patch_state_dict(
                self.model, {TENSOR_KEY: self._start}, self.patch_name, allow_large_vectors=True
            )
        trainer = self._trainer(stage)
        try:
            with separate_run(trainer, stage):
                trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        finally:
            self._report(stage, trainer)  # also if the run was stopped or diverged
            drop_fused_head(self.model)
            if stage == "dpo":
                trainer.release_reference()
        entries = trainer.state.log_history
        # The log is written first, because the patch marks the stage as done.
        in_main_process(lambda: _write_json(folder / LOG_NAME, entries))
        self.save_model(folder)
        return entries

    def _trainer(self, stage: str) -> PolicyPatchSFTTrainer | PolicyPatchDPOTrainer:
        trainer = {"sft": PolicyPatchSFTTrainer, "dpo": PolicyPatchDPOTrainer}[stage](
            self.model,
            name_run(self.args.stage(stage), stage, self.args.output_dir),
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.processing_class,
            callbacks=self.callbacks,
            teacher=self.teacher,
            teacher_tokenizer=self.teacher_tokenizer,
            company=self._company[stage],
        )
        if stage == "dpo" and isinstance(self.teacher, nn.Module):
            self.teacher = None  # its log-probabilities are computed, so it need not stay in memory
            gc.collect()
        return trainer

    def _report(self, stage: str, trainer: PolicyPatchSFTTrainer | PolicyPatchDPOTrainer) -> None:
        """Write the report on the stages so far into the folder of the patch."""
        if not trainer.is_world_process_zero():
            return
        log = {"sft": _read_log(Path(self.args.output_dir, "sft")), stage: trainer.state.log_history}
        config = self.model.patch_config[self.patch_name]
        TrainingReport(
            config=config,
            base=config.base_model_name_or_path or self.model.config._name_or_path,
            settings={name: self.args.stage(name) for name in log},
            log={name: entries for name, entries in log.items() if entries or name == stage},
            data=data_counts(self.train_dataset, self.eval_dataset),
            embedding_norm=trainer.embedding_norm,
        ).save(self.args.output_dir)

    def _load_finished(self, folder: Path) -> bool:
        """Load the patch of a stage that was completed before; return whether there is one."""
        try:
            _, vectors = read_patch_folder(folder)
        except PatchNotFoundError:
            return False
        set_policy_patch_state_dict(self.model, {TENSOR_KEY: vectors}, self.patch_name, allow_large_vectors=True)
        return True

    def _keep_folder_to_this_run(self) -> None:
        """Record in the folder which run uses it; raise `TrainingError` if another run does."""
        vectors = vectors_to_bytes(self._start)
        run = {
            "sft": self.args.sft,
            "dpo": self.args.dpo,
            "seed": self.args.seed,
            "rows": len(self.train_dataset),
            "data_sha256": data_hash(self.train_dataset, self.processing_class),
            "start_sha256": hashlib.sha256(vectors).hexdigest(),
            "base": self.model.config._name_or_path,
            "company_sha256": {stage: one.sha256 for stage, one in self._company.items() if one} or None,
        }
        run = _shown_run(json.loads(json.dumps(run, default=str)))  # in the form in which it is read back and compared
        in_main_process(lambda: _keep_to_one_run(Path(self.args.output_dir, RUN_NAME), run))


def _shown_run(run: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a run without tokens, keys and folders; none of them influences the result."""
    return {**blanked(run), "base": without_folders(str(run.get("base") or ""))}


def _keep_to_one_run(path: Path, run: dict[str, Any]) -> None:
    """Write the record `run` to `path`; raise `TrainingError` if another run is recorded there.

    Secrets in the record of an earlier version are removed.
    """
    if not path.is_file():
        _write_json(path, run)
        return
    try:
        noted = dict(parse_json(read_text(path, largest=_LARGEST_JSON), most_nested=32))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"`{path}` cannot be read ({error}), so it is unknown which run used that folder. Give another "
            "`output_dir`, or delete that folder."
        ) from error
    before = _shown_run(noted)
    changed = {key: (before.get(key), run[key]) for key in run if before.get(key) != run[key]}
    if changed:
        words = "; ".join(f"`{key}` was {old}, is now {new}" for key, (old, new) in changed.items())
        raise TrainingError(
            f"`{path.parent}` holds another run: {words}. Give another `output_dir`, delete that "
            "folder, or use that run's settings to resume it."
        )
    if noted != before:  # earlier versions wrote tokens and folders unchanged
        _write_json(path, before)


def _read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the log entries of a finished stage; an empty list if its log was deleted, which is allowed."""
    path = folder / LOG_NAME
    if not path.is_file():
        return []
    try:
        entries = parse_json(read_text(path, largest=_LARGEST_JSON), most_nested=32)
    except (OSError, ValueError) as error:
        raise TrainingError(f"`{path}` cannot be read ({error}). Delete it; no patch needs it.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TrainingError(f"`{path}` is not the log of a stage, a list of objects. Delete it; no patch needs it.")
    return entries


def _write_json(path: Path, values: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(values, indent=1) + "\n").encode())
    except OSError as error:
        raise CheckpointSaveError(
            f"Cannot write `{path}`: {error}. What was there before is intact; free some space or give another "
            "`output_dir`, and run the same command again."
        ) from error

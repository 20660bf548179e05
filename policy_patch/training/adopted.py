"""Makes transformers' `Trainer` and TRL's `SFTTrainer` and `DPOTrainer` work with a `PolicyPatchModel`.

`policy_patch.model.trainer_hook` calls `adopted` whenever a trainer is created with such a model. Our own trainers, in
`sft.py` and `dpo.py`, do not use this file.
"""

from functools import cache
from typing import Any

from transformers import Trainer, TrainingArguments

from policy_patch.errors import TrainingError
from policy_patch.training.checkpoints import PatchCheckpoints, last_checkpoint
from policy_patch.training.patch_alone import TrainsPatchAlone, trained_patch_name
from policy_patch.training.processes import is_sharded
from policy_patch.training.restored import settings_restored
from policy_patch.training.settings import check_settings, check_smoothing

_TESTED = ("Trainer", "SFTTrainer", "DPOTrainer")
_INSTEAD = "`PolicyPatchSFTTrainer` and `PolicyPatchDPOTrainer` of `policy_patch.training`"


class AdoptedTrainer(TrainsPatchAlone, PatchCheckpoints):
    """Mixin that adapts a trainer of transformers or TRL to a `PolicyPatchModel`.

    The user gets an object of a subclass of the trainer class, with the same name. It differs in these points only:

    - Only the active, trainable patch is trained, even if the base's parameters require gradients
      ([`TrainsPatchAlone`]).
    - Checkpoints, `save_model` and `push_to_hub` write the patch and nothing of the base. Training resumes from these
      checkpoints, and the best one is loaded from them ([`PatchCheckpoints`]).
    - TRL's `DPOTrainer` without a `ref_model` uses the policy at the time of its creation as the reference.
    - The base's settings, modes, dropout and gradient checkpointing are restored ([`settings_restored`]).
    - The constructor refuses settings that were not tested with a patch, or that would train something else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = [*args, *kwargs.values()]
        if any(hasattr(value, "peft_type") for value in given):
            raise TrainingError(
                "`peft_config` would put PEFT's parameters on the base of the patch. Leave it out, or train the base "
                "first and make the patch for it."
            )
        for settings in (value for value in given if isinstance(value, TrainingArguments)):
            self._check(settings)
        model = kwargs.get("model", args[0] if args else None)
        vectors = {name: parameter.data for name, parameter in model.patches.items()}
        with settings_restored(model):
            super().__init__(*args, **kwargs)
        for name, parameter in model.patches.items():
            if parameter.dtype != vectors[name].dtype:  # TRL 1.16 casts trainable parameters on a 4-bit base to bf16
                parameter.data = vectors[name].to(parameter.device)
        self._check(self.args)
        if self.args.n_gpu > 1:
            raise TrainingError(
                f"{self.args.n_gpu} GPUs are visible to one process, which would copy the model to each of them. Start "
                "one process for each GPU with `accelerate launch`, or set `CUDA_VISIBLE_DEVICES` to one."
            )

    @property
    def patch_name(self) -> str:
        """Return the name of the patch to train and save: the active, trainable one, else the only active or only one.

        Raises:
            PatchNameError: there is no such patch, or there are several.
        """
        model = self.accelerator.unwrap_model(self.model)
        trainable = [name for name in model.active_patches if model.patches[name].requires_grad]
        return trainable[0] if len(trainable) == 1 else model._one_patch(None)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as upstream does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder, or `True` for the newest complete one in `args.output_dir`.

        Raises:
            TrainingError: no patch is active and trainable, or several are.
        """
        trained_patch_name(self.accelerator.unwrap_model(self.model))
        if resume_from_checkpoint is True:  # upstream would also choose an incomplete checkpoint, and fail on it
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        with settings_restored(self.accelerator.unwrap_model(self.model)), self.only_the_patch():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _check(self, args: TrainingArguments) -> None:
        """Raise `ConfigError` or `TrainingError` for settings that do not work in this trainer with a patch."""
        check_settings(args)
        upstream = _upstream(type(self))
        wanted = {"SFTTrainer": "SFTConfig", "DPOTrainer": "DPOConfig"}.get(upstream.__name__)
        if wanted is not None and wanted not in [each.__name__ for each in type(args).__mro__]:
            raise TrainingError(
                f"`args` is a {type(args).__name__}; {upstream.__name__} needs a `{wanted}` of TRL. The trainers of "
                "the package are " + _INSTEAD + "."
            )
        if upstream.__name__ != "SFTTrainer":
            instead = "Leave it at 0" + ("." if wanted is None else ", and set DPO's own `label_smoothing`.")
            check_smoothing(args, instead=instead)
        if is_sharded(args):
            raise TrainingError(
                f"FSDP and DeepSpeed were tested with a patch only in this package's own trainers. Use {_INSTEAD}."
            )


@cache
def adopted(trainer: type) -> type:
    """Return the subclass of `trainer` that works with a `PolicyPatchModel`.

    Args:
        trainer (`type`):
            A trainer class.

    Raises:
        TrainingError: `trainer` derives from a trainer of transformers or TRL that was not tested with a patch.
        MissingExtraError: `trainer` is from an unsupported version of TRL.
    """
    if issubclass(trainer, PatchCheckpoints):
        return trainer
    upstream = _upstream(trainer)
    if upstream.__name__ not in _TESTED:
        raise TrainingError(
            f"`{upstream.__name__}` was not tested with a PolicyPatchModel, and might train parameters other than the "
            f"patch. Use {_INSTEAD}, or one of {', '.join(_TESTED)}."
        )
    bases: tuple[type, ...] = (AdoptedTrainer, trainer)
    if upstream is not Trainer:
        from policy_patch.training.policy_reference import ReferenceFromPolicy

        if issubclass(ReferenceFromPolicy, trainer):
            bases = (AdoptedTrainer, ReferenceFromPolicy)
        elif upstream.__name__ == "DPOTrainer":
            bases = (AdoptedTrainer, trainer, ReferenceFromPolicy)
    return type(trainer.__name__, bases, {"__module__": trainer.__module__, "__qualname__": trainer.__qualname__})


def check_adopted(trainer: Trainer) -> None:
    """Raise `TrainingError` unless `trainer`, which holds a `PolicyPatchModel`, saves patches.

    A trainer that got its model by `model_init` was created before `adopted` could choose a class for it.
    """
    if not isinstance(trainer, PatchCheckpoints):
        raise TrainingError(
            f"{type(trainer).__name__} did not get its PolicyPatchModel as its first argument, `model`, but for "
            f"example by `model_init`. It would save the whole base. Give the model as `model`, or use {_INSTEAD}."
        )


def _upstream(trainer: type) -> type:
    """Return the first class in the method resolution order of `trainer` that is defined by transformers or TRL."""
    for each in trainer.__mro__:
        if each.__module__.split(".")[0] in ("transformers", "trl") and not issubclass(each, AdoptedTrainer):
            return each
    return Trainer

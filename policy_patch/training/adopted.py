"""transformers' `Trainer` and TRL's `SFTTrainer` and `DPOTrainer`, as they are with a `PolicyPatchModel`.

`policy_patch.model.trainer_hook` calls `adopted` for each trainer that is made with one. Our own trainers are in
`sft.py` and `dpo.py`, and need none of this.
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

_TRIED = ("Trainer", "SFTTrainer", "DPOTrainer")
_INSTEAD = "`PolicyPatchSFTTrainer` and `PolicyPatchDPOTrainer` of `policy_patch.training`"


class AdoptedTrainer(TrainsPatchAlone, PatchCheckpoints):
    """What differs in a trainer of transformers or TRL that is given a `PolicyPatchModel`; all else is as upstream.

    The trainer's class is a subclass, of the same name, of the one that was called. It differs in this:

    - Only the active, trainable patch is trained, whoever thawed the base ([`TrainsPatchAlone`]).
    - Checkpoints, `save_model` and `push_to_hub` write the patch and nothing of the base; training goes on from them,
      and the best one is loaded from them ([`PatchCheckpoints`]).
    - TRL's `DPOTrainer` without a `ref_model` takes the policy as it is when the trainer is made.
    - The base's settings, modes, dropout and checkpointing are put back ([`settings_restored`]).
    - What was not tried with a patch, or would train something else than it says, is refused by the constructor.
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
            if parameter.dtype != vectors[name].dtype:  # TRL 1.16 casts what trains on a base of 4 or 8 bits to bf16
                parameter.data = vectors[name].to(parameter.device)
        self._check(self.args)
        if self.args.n_gpu > 1:
            raise TrainingError(
                f"{self.args.n_gpu} GPUs are visible to one process, which would copy the model to each of them. Start "
                "one process for each GPU with `accelerate launch`, or set `CUDA_VISIBLE_DEVICES` to one."
            )

    @property
    def patch_name(self) -> str:
        """The patch that is trained and saved: the active, trainable one, or the only one where none trains."""
        model = self.accelerator.unwrap_model(self.model)
        trainable = [name for name in model.active_patches if model.patches[name].requires_grad]
        return trainable[0] if len(trainable) == 1 else model._one_patch(None)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as upstream does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder, or `True` for the newest complete one in `args.output_dir`.

        Raises:
            TrainingError: no patch is active and trainable, or several.
        """
        trained_patch_name(self.accelerator.unwrap_model(self.model))
        if resume_from_checkpoint is True:  # upstream would choose one that was cut short, and fail on it
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        with settings_restored(self.accelerator.unwrap_model(self.model)), self.only_the_patch():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _check(self, args: TrainingArguments) -> None:
        """Raise `ConfigError` or `TrainingError` for settings that this trainer cannot have with a patch."""
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
                f"FSDP and DeepSpeed were tried with a patch in the trainers of the package alone. Use {_INSTEAD}."
            )


@cache
def adopted(trainer: type) -> type:
    """Return the class that stands in for `trainer` where the model is a `PolicyPatchModel`.

    Raises:
        TrainingError: a trainer of transformers or TRL that was not tried with a patch.
        MissingExtraError: a trainer of a TRL whose inside we do not know.
    """
    if issubclass(trainer, PatchCheckpoints):
        return trainer
    upstream = _upstream(trainer)
    if upstream.__name__ not in _TRIED:
        raise TrainingError(
            f"`{upstream.__name__}` was not tried with a PolicyPatchModel, and might train something else than the "
            f"patch. Use {_INSTEAD}, or one of {', '.join(_TRIED)}."
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
    """Raise `TrainingError` unless `trainer`, which has a `PolicyPatchModel`, is one that knows what that is."""
    if not isinstance(trainer, PatchCheckpoints):
        raise TrainingError(
            f"{type(trainer).__name__} got its PolicyPatchModel by another way than its first argument, `model`, as by "
            f"`model_init`, and would save the whole base. Give it as `model`, or use {_INSTEAD}."
        )


def _upstream(trainer: type) -> type:
    """Return the nearest of `trainer` and the classes that it is made of which is transformers' or TRL's own."""
    for each in trainer.__mro__:
        if each.__module__.split(".")[0] in ("transformers", "trl") and not issubclass(each, AdoptedTrainer):
            return each
    return Trainer

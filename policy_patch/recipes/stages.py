"""The sections `sft` and `dpo` of a recipe: checked as the trainers will check them, before any model is loaded.

Which settings there are is said by TRL and by `policy_patch.training.config`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, MissingExtraError
from policy_patch.recipes.options import value_for

if TYPE_CHECKING:
    from policy_patch.training import PolicyPatchTrainingConfig

# Of what TRL takes without a word, however impossible: type and limits.
_LIMITS: dict[str, tuple[Any, dict[str, float]]] = {
    "max_steps": (int, {"least": -1}),  # -1: as many as `num_train_epochs` says
    "num_train_epochs": (float, {"above": 0}),
    "learning_rate": (float, {"least": 0}),
    "per_device_train_batch_size": (int, {"least": 1}),
    "gradient_accumulation_steps": (int, {"least": 1}),
    "beta": (float, {"least": 0}),
}


def training_settings(
    output_dir: str, stages: Mapping[str, Mapping[str, Any]], seed: int
) -> "PolicyPatchTrainingConfig":
    """Return the settings of both stages, as `PolicyPatchTrainer` takes them.

    Raises:
        ConfigError: both stages left out.
        MissingExtraError: a package of the extra `train` is not installed.
    """
    from policy_patch.training import PolicyPatchTrainingConfig

    stages = {name: {"disable_tqdm": True, **given} for name, given in stages.items()}
    return PolicyPatchTrainingConfig(output_dir=output_dir, **stages, seed=seed)


def check_numbers(section: str, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for steps, rates and the like that cannot be; torch is not imported."""
    for name, (type_, limits) in _LIMITS.items():
        if name in given:
            value_for(f"{section}.{name}", given[name], type_, limits)


def check_settings(settings: "PolicyPatchTrainingConfig") -> None:
    """Raise `ConfigError` for an unknown key of a stage, or for a value that TRL or we refuse.

    Where several processes were launched, keys alone are looked at: to make TRL's settings would start a process group
    hours before the training, and switch DeepSpeed's loading of models on.
    """
    from policy_patch.training.config import PolicyPatchDPOConfig, PolicyPatchSFTConfig, check_keys

    is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 or any(
        f"ACCELERATE_USE_{name}" in os.environ for name in ("FSDP", "DEEPSPEED")
    )
    for stage, cls in (("sft", PolicyPatchSFTConfig), ("dpo", PolicyPatchDPOConfig)):
        check_keys(stage, getattr(settings, stage), cls)
        if is_launched:
            continue
        try:
            settings.stage(stage)
        except MissingExtraError:
            raise
        except ConfigError as error:
            raise ConfigError(with_paths(str(error), stage, getattr(settings, stage))) from error
        except (ValueError, TypeError, ImportError) as error:  # of TRL and transformers
            raise ConfigError(f"`{stage}` cannot be: {error}") from error


def with_paths(text: str, section: str, names: Mapping[str, Any]) -> str:
    """Return an error's text with the keys of a section by their full paths.

    Example:

    ```python
    >>> from policy_patch.recipes.stages import with_paths
    >>> with_paths("`kl_weight=2`: expected a number from 0 to 1.", "sft", {"kl_weight": 2})
    '`sft.kl_weight=2`: expected a number from 0 to 1.'

    ```
    """
    for name in names:
        text = text.replace(f"`{name}=", f"`{section}.{name}=").replace(f"`{name}`", f"`{section}.{name}`")
    return text

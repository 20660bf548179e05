"""Checks the sections `sft` and `dpo` of a recipe as the trainers do, but before any model is loaded.

TRL and `policy_patch.training.config` define the settings.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, MissingExtraError
from policy_patch.recipes.options import value_for

if TYPE_CHECKING:
    from policy_patch.training import PolicyPatchTrainingConfig

# Types and limits of settings for which TRL silently accepts impossible values.
_LIMITS: dict[str, tuple[Any, dict[str, float]]] = {
    "max_steps": (int, {"least": -1}),  # -1: `num_train_epochs` decides
    "num_train_epochs": (float, {"above": 0}),
    "learning_rate": (float, {"least": 0}),
    "per_device_train_batch_size": (int, {"least": 1}),
    "gradient_accumulation_steps": (int, {"least": 1}),
    "beta": (float, {"least": 0}),
}
_MEANING = {"max_steps": "0 skips the stage; with -1 `num_train_epochs` decides."}


def training_settings(
    output_dir: str, stages: Mapping[str, Mapping[str, Any]], seed: int, **shared: Any
) -> "PolicyPatchTrainingConfig":
    """Return the settings of both stages for a `PolicyPatchTrainer`.

    Args:
        output_dir (`str`):
            Folder of the run.
        stages (`Mapping[str, Mapping[str, Any]]`):
            The sections `"sft"` and `"dpo"`.
        seed (`int`):
            Seed of both stages.
        shared (*optional*):
            Other settings of both stages: `stack_probability`, `stack_with`, `stack_side`.

    Raises:
        ConfigError: both stages are skipped.
        MissingExtraError: a package of the extra `train` is not installed.
    """
    from policy_patch.training import PolicyPatchTrainingConfig

    stages = {name: {"disable_tqdm": True, **given} for name, given in stages.items()}
    return PolicyPatchTrainingConfig(output_dir=output_dir, **stages, seed=seed, **shared)


def check_numbers(section: str, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for impossible numbers of steps, rates and the like. Torch is not imported."""
    for name, (type_, limits) in _LIMITS.items():
        if name in given:
            try:
                value_for(f"{section}.{name}", given[name], type_, limits)
            except ConfigError as error:
                raise ConfigError(f"{error} {_MEANING.get(name, '')}".rstrip()) from error


def check_settings(settings: "PolicyPatchTrainingConfig") -> None:
    """Raise `ConfigError` for an unknown key of a stage, or for a value that TRL or this package refuses.

    Under a launcher only the keys are checked: creating TRL's settings would start the process group long before the
    training, and would change how models are loaded with DeepSpeed.
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
        except (ValueError, TypeError, ImportError) as error:  # raised by TRL and transformers
            raise ConfigError(f"`{stage}` has an impossible value: {error}") from error


def with_paths(text: str, section: str, names: Mapping[str, Any]) -> str:
    """Return an error's text in which the keys of a section are replaced by their full paths.

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

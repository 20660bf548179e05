"""Refuses settings of transformers and TRL with which a patch cannot be trained, and says what to use instead.

Every configuration is checked here, TRL's and ours. Our own settings and their defaults are in `config.py`.
"""

import os
from collections.abc import Callable
from typing import Any

from policy_patch.errors import ConfigError

_JOINED = "joins several texts into one row, but each text needs the patch in front of it. Leave it off."

# Name of the setting; whether a value switches it on; why it is refused, and what to do instead.
_REFUSED: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("packing", bool, _JOINED),
    ("eval_packing", bool, _JOINED),
    ("padding_free", bool, _JOINED),
    (
        "sync_ref_model", bool,
        "writes to the reference's parameters, but the reference shares the base with the policy. Leave it off. To "
        "update the reference, start another DPO stage from the trained patch.",
    ),
    (
        "use_liger_kernel", bool,
        "replaces modules of the base in place and does not restore them after training. Leave it off.",
    ),
    (
        "torch_compile", bool,
        "compiles the whole training step, which was not tested with a patch. Leave it off.",
    ),
    (
        "activation_offloading", bool,
        "was not tested with a patch. Use `activation_checkpointing=True` to save memory.",
    ),
    (
        "parallelism_config", lambda value: value is not None,
        "splits a text over processes, but the patch belongs in front of the first part only. Leave it out.",
    ),
)  # fmt: skip


def check_settings(args: Any) -> None:
    """Raise `ConfigError` if a setting in `args` does not work with a patch.

    Args:
        args (`transformers.TrainingArguments`):
            Settings of any trainer.

    Raises:
        ConfigError: a setting joins texts into one row, writes to the reference, changes the base in place, splits a
            text over processes, pushes checkpoints to the Hub, or was not tested with a patch.
    """
    for name, is_on, reason in _REFUSED:
        value = getattr(args, name, None)
        if is_on(value):
            raise ConfigError(f"`{name}={value!r}` {reason}")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")  # set by `accelerate launch`
    if backend.lower() != "no":
        raise ConfigError(
            f"`ACCELERATE_DYNAMO_BACKEND={backend}` compiles the whole training step, which was not tested with a "
            "patch. Launch with `--dynamo_backend no`."
        )
    if getattr(args, "push_to_hub", False) and args.hub_strategy != "end":
        raise ConfigError(
            f"`hub_strategy={getattr(args.hub_strategy, 'value', args.hub_strategy)!r}` would push checkpoints without "
            "the patch. Use 'end', or push the model yourself."
        )


def check_args(trainer: str, args: Any, kind: type, peft_config: Any = None) -> None:
    """Raise `ConfigError` unless `args` is an instance of `kind` that works with a patch, and PEFT is not used.

    Args:
        trainer (`str`):
            Name of the trainer, for the error.
        args (`transformers.TrainingArguments`, *optional*):
            The settings; None for TRL's defaults.
        kind (`type`):
            TRL's class of settings; ours is a subclass of it.
        peft_config (`peft.PeftConfig`, *optional*):
            The `peft_config` that was given to the trainer; it is refused.
    """
    if args is not None and not isinstance(args, kind):
        raise ConfigError(
            f"`args` is a {type(args).__name__}; {trainer} needs a `PolicyPatch{kind.__name__}`, or TRL's "
            f"`{kind.__name__}`."
        )
    if peft_config is not None:
        raise ConfigError(
            f"`peft_config={type(peft_config).__name__}(...)` would put PEFT's parameters on the base of the patch. "
            "Leave it out, or train the base first and make the patch for it."
        )
    check_settings(args)


def check_smoothing(args: Any, *, instead: str) -> None:
    """Raise `ConfigError` if `args` sets `label_smoothing_factor`; the error ends with the advice `instead`.

    transformers' smoothed loss shifts labels only for model classes on its list, and a patched model is not on it.
    TRL's `DPOTrainer` ignores the setting.
    """
    if getattr(args, "label_smoothing_factor", 0):
        raise ConfigError(
            f"`label_smoothing_factor={args.label_smoothing_factor}` would not smooth this trainer's loss correctly. "
            f"{instead}"
        )

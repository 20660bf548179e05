"""Which settings of transformers' and TRL's configurations a patch cannot be trained with, and what to use instead.

Settings of ours, and their defaults, are in `config.py`. This is asked of every configuration, whoever's it is.
"""

import os
from collections.abc import Callable
from typing import Any

from policy_patch.errors import ConfigError

_JOINED = "joins texts to one row; each text needs the patch in front of it. Leave it off."

# Name, whether a value asks for something, and why that cannot be, with what to do instead.
_REFUSED: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("packing", bool, _JOINED),
    ("eval_packing", bool, _JOINED),
    ("padding_free", bool, _JOINED),
    (
        "sync_ref_model", bool,
        "writes to the reference's parameters, and the reference shares the base with the policy. Leave it off, and "
        "start another DPO stage from the trained patch where the reference should move.",
    ),
    (
        "use_liger_kernel", bool,
        "replaces modules of the base in place, also for those who use it after training. Leave it off.",
    ),
    (
        "torch_compile", bool,
        "compiles the whole training step, which was not tried with a patch. Leave it off.",
    ),
    (
        "activation_offloading", bool,
        "was not tried with a patch. Use `activation_checkpointing=True` where memory is short.",
    ),
    (
        "parallelism_config", lambda value: value is not None,
        "splits a text over processes, and the patch belongs in front of the first part alone. Leave it out.",
    ),
)  # fmt: skip


def check_settings(args: Any) -> None:
    """Raise `ConfigError` if `args`, a `TrainingArguments` or a kind of it, asks for what a patch cannot do.

    Raises:
        ConfigError: texts joined to one row, a reference that is written to, a base that is changed in place, pushes
            of checkpoints, a smoothed loss where upstream would not shift the labels.
    """
    for name, asked, reason in _REFUSED:
        value = getattr(args, name, None)
        if asked(value):
            raise ConfigError(f"`{name}={value!r}` {reason}")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")  # of `accelerate launch`
    if backend.lower() != "no":
        raise ConfigError(
            f"`ACCELERATE_DYNAMO_BACKEND={backend}` compiles the whole training step, which was not tried with a "
            "patch. Launch with `--dynamo_backend no`."
        )
    if getattr(args, "push_to_hub", False) and args.hub_strategy != "end":
        raise ConfigError(
            f"`hub_strategy={getattr(args.hub_strategy, 'value', args.hub_strategy)!r}` would push checkpoints without "
            "the patch. Use 'end', or push the model yourself."
        )


def check_args(trainer: str, args: Any, kind: type, peft_config: Any = None) -> None:
    """Raise `ConfigError` unless `args` is a `kind` of settings that a patch can be trained with, without PEFT.

    Args:
        trainer (`str`):
            Name of the trainer that is given them.
        args (`transformers.TrainingArguments`, *optional*):
            The settings; None for TRL's defaults.
        kind (`type`):
            TRL's class of settings, of which ours is a subclass.
        peft_config (`peft.PeftConfig`, *optional*):
            What TRL would put on the base.
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
    """Raise `ConfigError` if `args` asks for smoothed labels, which this trainer would not do, or not rightly.

    transformers' own loss of smoothed labels shifts them for classes that it lists, and a patched model is none; TRL's
    `DPOTrainer` does not look at the setting.
    """
    if getattr(args, "label_smoothing_factor", 0):
        raise ConfigError(
            f"`label_smoothing_factor={args.label_smoothing_factor}` would not smooth this trainer's loss as it says. "
            f"{instead}"
        )

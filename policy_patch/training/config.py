"""Settings of each training stage and of the two together: TRL's, with defaults that suit a patch.

Everything TRL's `SFTConfig` and `DPOConfig` take is taken here too; only what differs is documented.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from policy_patch.training._trl import check_trl_version

check_trl_version()

import torch  # noqa: E402
from trl import DPOConfig, SFTConfig  # noqa: E402

from policy_patch.errors import ConfigError  # noqa: E402
from policy_patch.near_names import did_you_mean, near_names  # noqa: E402
from policy_patch.privacy.redaction import BLANK, blanked, is_secret_name  # noqa: E402
from policy_patch.training.settings import check_settings  # noqa: E402

Reference = Literal["sft", "base", "teacher"]
REFERENCES = ("sft", "base", "teacher")


def _before_checks(config: Any) -> None:
    """Settle what TRL would otherwise default wrongly for a patch or for a machine without an accelerator."""
    if config.output_dir is None:
        raise ConfigError(f"`{type(config).__name__}` needs an `output_dir`.")
    # TRL 1.16 sets the old names, of which transformers 5.23 warns on every use; both go in transformers 6.
    for suffix in ("", "_kwargs"):
        if getattr(config, f"activation_checkpointing{suffix}") is None:
            setattr(config, f"activation_checkpointing{suffix}", getattr(config, f"gradient_checkpointing{suffix}"))
    if not torch.accelerator.is_available():
        config.use_cpu = True
        config.dataloader_pin_memory = False
        if config.bf16 is None:  # TRL then chooses bf16, which is several times slower than fp32 on most CPUs
            config.bf16 = False


def _after_checks(config: Any) -> None:
    if config.max_vector_norm is not None and not config.max_vector_norm > 0:
        raise ConfigError(
            f"`max_vector_norm={config.max_vector_norm}`: expected a number above 0, in multiples of the mean norm of "
            "the base's token embeddings, or None for no limit."
        )
    check_settings(config)


@dataclass(repr=False)
class StageSettings:
    """What the settings of both stages have beside TRL's, or other than TRL's.

    Args:
        max_vector_norm (`float`, *optional*):
            Longest that a vector may become, in multiples of the mean L2 norm of the base's token embeddings. No limit
            by default.
        health_warnings (`bool`, *optional*, defaults to `True`):
            Warn where the loss does not move or diverges, where the reward accuracy stays at chance, and where the
            vectors grow out of all proportion.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Throws caches away, and with them the shared prefix; switch it on when memory is short.
    """

    max_vector_norm: float | None = field(default=None, metadata={"help": "Longest vector, in token embeddings."})
    health_warnings: bool = field(default=True, metadata={"help": "Warn where training does not go well."})
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    per_device_train_batch_size: int = 16
    gradient_checkpointing: bool = False
    save_total_limit: int | None = 2
    report_to: Any = "none"
    ddp_find_unused_parameters: bool | None = False

    def __repr__(self) -> str:
        """Show the settings without tokens and keys. That of upstream's subclasses shows them."""
        return _shown(self)

    __str__ = __repr__

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as trackers get them; upstream leaves out its own tokens, not those within dicts."""
        return {name: blanked(value) for name, value in super().to_dict().items()}


@dataclass(repr=False)
class PolicyPatchSFTConfig(StageSettings, SFTConfig):
    """Settings of the SFT stage: TRL's `SFTConfig`, [`StageSettings`], and the defaults below.

    Args:
        kl_weight (`float`, *optional*, defaults to `0.0`):
            Part of the loss that is the KL divergence from the teacher's next-token distribution, 0 to 1; the rest is
            cross-entropy. Above 0 the trainer needs the teacher, which then runs at each step.
        learning_rate (`float`, *optional*, defaults to `1e-2`):
            A soft prompt needs 100 to 1000 times the rate of full fine-tuning.
    """

    kl_weight: float = field(default=0.0, metadata={"help": "Part of KL to the teacher in the loss, 0 to 1."})
    learning_rate: float = 1e-2
    completion_only_loss: bool | None = True

    def __post_init__(self) -> None:
        _before_checks(self)
        if not 0 <= self.kl_weight <= 1:
            raise ConfigError(f"`kl_weight={self.kl_weight}`: expected a number from 0 to 1.")
        super().__post_init__()
        _after_checks(self)


@dataclass(repr=False)
class PolicyPatchDPOConfig(StageSettings, DPOConfig):
    """Settings of the DPO stage: TRL's `DPOConfig`, [`StageSettings`], and the defaults below.

    Args:
        reference (`"sft"`, `"base"` or `"teacher"`, *optional*, defaults to `"sft"`):
            DPO's reference policy: the patch as it is when the stage starts, the base, or the teacher (the paper's
            choice). None of them keeps a second copy of the base in memory; the teacher is asked once, beforehand.
        precompute_ref_log_probs (`bool`, *optional*):
            Ask the reference once, before training, rather than at each step. By default so where training sees every
            row at least once, since that is cheaper then, and always for `reference="teacher"`. Afterwards `evaluate`
            takes no other dataset.
        learning_rate (`float`, *optional*, defaults to `5e-3`):
            Half of the SFT stage's.
    """

    reference: str = field(default="sft", metadata={"help": "Reference policy: 'sft', 'base' or 'teacher'."})
    precompute_ref_log_probs: bool | None = None
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        _before_checks(self)
        if self.reference not in REFERENCES:
            raise ConfigError(f"`reference={self.reference!r}`: expected one of {', '.join(REFERENCES)}.")
        if self.reference == "teacher":
            self.precompute_ref_log_probs = True
        super().__post_init__()
        _after_checks(self)


@dataclass(kw_only=True, repr=False)
class PolicyPatchTrainingConfig:
    """Settings of both stages together.

    Args:
        output_dir (`str`):
            Gets the finished patch; `sft/` and `dpo/` below it get each stage's checkpoints and its own patch.
        sft (`dict`, *optional*):
            Arguments of [`PolicyPatchSFTConfig`] beside `output_dir`; `{"max_steps": 0}` leaves the stage out.
        dpo (`dict`, *optional*):
            Arguments of [`PolicyPatchDPOConfig`] beside `output_dir`; `{"max_steps": 0}` leaves the stage out.
        seed (`int`, *optional*, defaults to `42`):
            Seed of both stages, unless a stage has its own.

    Raises:
        ConfigError: unknown key in a stage, or both stages left out.
    """

    output_dir: str
    sft: dict[str, Any] = field(default_factory=dict)
    dpo: dict[str, Any] = field(default_factory=dict)
    seed: int = 42

    def __post_init__(self) -> None:
        if self.runs("sft") or self.runs("dpo"):
            return
        raise ConfigError("`sft` and `dpo` both have `max_steps=0`: nothing to train.")

    def __repr__(self) -> str:
        """Show the settings without tokens and keys."""
        return _shown(self)

    def runs(self, stage: str) -> bool:
        """Whether the stage is run at all."""
        return getattr(self, stage).get("max_steps") != 0

    def stage(self, stage: str) -> PolicyPatchSFTConfig | PolicyPatchDPOConfig:
        """Return the settings of `"sft"` or `"dpo"`, with its folder below `output_dir`."""
        cls = {"sft": PolicyPatchSFTConfig, "dpo": PolicyPatchDPOConfig}[stage]
        given = getattr(self, stage)
        check_keys(stage, given, cls)
        if "output_dir" in given:
            raise ConfigError(f"`{stage}.output_dir` is set from `output_dir`: the stage gets a folder below it.")
        return cls(**{"seed": self.seed, **given, "output_dir": f"{self.output_dir}/{stage}"})


def check_keys(section: str, given: dict[str, Any], cls: type) -> None:
    """Raise `ConfigError` with near names if `given` has a key that the dataclass `cls` does not know."""
    known = [entry.name for entry in fields(cls) if entry.init]
    for key, value in given.items():
        if key not in known:
            near = near_names(key, known, most=3)
            hint = did_you_mean(key, known, most=3, otherwise=f"See `{cls.__name__}`.")
            shown = BLANK if any(is_secret_name(name) for name in near) else blanked(value, key)
            raise ConfigError(f"`{section}.{key}` is unknown (given: {shown!r}). {hint}")


def _shown(settings: Any) -> str:
    values = blanked({entry.name: getattr(settings, entry.name, None) for entry in fields(settings)})
    return f"{type(settings).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"

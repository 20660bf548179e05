"""Settings of each training stage and of both stages together: TRL's settings, with defaults that suit a patch.

All settings of TRL's `SFTConfig` and `DPOConfig` are accepted; only the differences are documented here.
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
from policy_patch.training.company import check_company  # noqa: E402
from policy_patch.training.settings import check_settings  # noqa: E402

Reference = Literal["sft", "base", "teacher"]
REFERENCES = ("sft", "base", "teacher")
_OF_BOTH_STAGES = ("seed", "stack_probability", "stack_with", "stack_side")


def _before_checks(config: Any) -> None:
    """Set values for which TRL's defaults are wrong for a patch, or on a machine without an accelerator."""
    if config.output_dir is None:
        raise ConfigError(f"`{type(config).__name__}` needs an `output_dir`.")
    # TRL 1.16 sets the old names, and transformers 5.23 warns of them on every use. transformers 6 removes them.
    for suffix in ("", "_kwargs"):
        if getattr(config, f"activation_checkpointing{suffix}") is None:
            setattr(config, f"activation_checkpointing{suffix}", getattr(config, f"gradient_checkpointing{suffix}"))
    if not torch.accelerator.is_available():
        config.use_cpu = True
        config.dataloader_pin_memory = False
        if config.bf16 is None:  # TRL would choose bf16, which is several times slower than fp32 on most CPUs
            config.bf16 = False


def _after_checks(config: Any) -> None:
    if config.max_vector_norm is not None and not config.max_vector_norm > 0:
        raise ConfigError(
            f"`max_vector_norm={config.max_vector_norm}`: expected a number above 0, in multiples of the mean norm of "
            "the base's token embeddings, or None for no limit."
        )
    check_company(config.stack_with or (), config.stack_probability, config.stack_side)
    check_settings(config)


@dataclass(repr=False)
class StageSettings:
    """Settings of both stages that TRL does not have, or that have another default in TRL.

    Args:
        max_vector_norm (`float`, *optional*):
            Limit of the L2 norm of each vector, in multiples of the mean L2 norm of the base's token embeddings. No
            limit by default.
        health_warnings (`bool`, *optional*, defaults to `True`):
            Warn if the loss does not move or diverges, if the reward accuracy stays at chance, or if the vectors become
            far longer than token embeddings.
        stack_probability (`float`, *optional*, defaults to `0.0`):
            The share of the steps in which other, frozen vectors stand around the patch, so that it keeps its effect
            in a stack. DPO's reference always runs without them.
        stack_with (`list[str]`, *optional*):
            What stands there: folders and Hub ids of patches, `lab:<risk>`, and stand-ins of random length:
            `stand-in:text` (a safety instruction, as an untrained patch; the default), `stand-in:vocab` (random
            tokens) and `stand-in:random` (noise).
        stack_side (`"both"`, `"before"` or `"after"`, *optional*, defaults to `"both"`):
            Where they stand.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Recompute activations in the backward pass. It saves memory, but disables the cached prefix that all rows of
            a step share, so steps get slower.
    """

    max_vector_norm: float | None = field(
        default=None, metadata={"help": "Limit of each vector's norm, in mean norms of a token embedding."}
    )
    health_warnings: bool = field(default=True, metadata={"help": "Warn if training does not go well."})
    stack_probability: float = field(default=0.0, metadata={"help": "Share of steps with other patches around."})
    stack_with: list[str] | None = field(default=None, metadata={"help": "Patches and stand-ins around the patch."})
    stack_side: str = field(default="both", metadata={"help": "Where they stand: 'both', 'before' or 'after'."})
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    per_device_train_batch_size: int = 16
    gradient_checkpointing: bool = False
    save_total_limit: int | None = 2
    report_to: Any = "none"
    ddp_find_unused_parameters: bool | None = False

    def __repr__(self) -> str:
        """Return the settings as text, without tokens and keys. The method of upstream's subclasses shows them."""
        return _shown(self)

    __str__ = __repr__

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for trackers, without tokens and keys. Upstream does not remove those inside dicts."""
        return {name: blanked(value) for name, value in super().to_dict().items()}


@dataclass(repr=False)
class PolicyPatchSFTConfig(StageSettings, SFTConfig):
    """Settings of the SFT stage: TRL's `SFTConfig`, [`StageSettings`], and the following.

    Args:
        kl_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the KL divergence to the teacher's next-token distribution in the loss, 0 to 1. Cross-entropy has
            the remaining weight. Above 0, the trainer needs the teacher and runs it at each step.
        learning_rate (`float`, *optional*, defaults to `1e-2`):
            Peak learning rate. Learned vectors need 100 to 1000 times the rate of full fine-tuning.
    """

    kl_weight: float = field(default=0.0, metadata={"help": "Weight of the KL to the teacher in the loss, 0 to 1."})
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
    """Settings of the DPO stage: TRL's `DPOConfig`, [`StageSettings`], and the following.

    Args:
        reference (`"sft"`, `"base"` or `"teacher"`, *optional*, defaults to `"sft"`):
            DPO's reference policy: the patch at the start of the stage, the base, or the teacher (the paper's choice).
            None of them keeps a second copy of the base in memory. The teacher runs once, before training.
        precompute_ref_log_probs (`bool`, *optional*):
            Compute the reference's log-probabilities once, before training, instead of at each step. The default is
            True if training sees every row at least once, because it is then cheaper. It is always True for
            `reference="teacher"`. If True, `evaluate` accepts no other dataset.
        learning_rate (`float`, *optional*, defaults to `5e-3`):
            Peak learning rate, half of the SFT stage's.
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
            Folder for the finished patch. Its subfolders `sft/` and `dpo/` hold each stage's checkpoints and patch.
        sft (`dict`, *optional*):
            Arguments of [`PolicyPatchSFTConfig`] other than `output_dir`. `{"max_steps": 0}` skips the stage.
        dpo (`dict`, *optional*):
            Arguments of [`PolicyPatchDPOConfig`] other than `output_dir`. `{"max_steps": 0}` skips the stage.
        seed (`int`, *optional*, defaults to `42`):
            Seed of both stages, unless a stage sets its own.
        stack_probability (`float`, *optional*), stack_with (`list[str]`, *optional*), stack_side (`str`, *optional*):
            As in [`StageSettings`], for both stages, unless a stage sets its own.

    Raises:
        ConfigError: both stages are skipped.
    """

    output_dir: str
    sft: dict[str, Any] = field(default_factory=dict)
    dpo: dict[str, Any] = field(default_factory=dict)
    seed: int = 42
    stack_probability: float = 0.0
    stack_with: list[str] | None = None
    stack_side: str = "both"

    def __post_init__(self) -> None:
        if not self.runs("sft") and not self.runs("dpo"):
            raise ConfigError("`sft` and `dpo` both have `max_steps=0`: nothing to train.")
        shares = [getattr(self, stage).get("stack_probability", self.stack_probability) for stage in ("sft", "dpo")]
        check_company(self.stack_with or (), self.stack_probability or next(filter(None, shares), 0), self.stack_side)

    def __repr__(self) -> str:
        """Return the settings as text, without tokens and keys."""
        return _shown(self)

    def runs(self, stage: str) -> bool:
        """Return whether the stage `"sft"` or `"dpo"` is run."""
        return getattr(self, stage).get("max_steps") != 0

    def stage(self, stage: str) -> PolicyPatchSFTConfig | PolicyPatchDPOConfig:
        """Return the settings of the stage `"sft"` or `"dpo"`, with its folder below `output_dir`.

        Raises:
            ConfigError: a key is unknown, or a value is impossible.
        """
        cls = {"sft": PolicyPatchSFTConfig, "dpo": PolicyPatchDPOConfig}[stage]
        given = getattr(self, stage)
        check_keys(stage, given, cls)
        if "output_dir" in given:
            raise ConfigError(
                f"`{stage}.output_dir` must not be given: the stage uses the folder `{stage}` in `output_dir`. Leave "
                "it out."
            )
        shared = {name: getattr(self, name) for name in _OF_BOTH_STAGES}
        if not given.get("stack_probability", self.stack_probability):
            del shared["stack_with"]  # the other stage's
        return cls(**{**shared, **given, "output_dir": f"{self.output_dir}/{stage}"})


def check_keys(section: str, given: dict[str, Any], cls: type) -> None:
    """Raise `ConfigError`, with near names, if `given` has a key that is not a field of the dataclass `cls`.

    Args:
        section (`str`):
            Name of the section, for the error.
        given (`dict[str, Any]`):
            Keys and values.
        cls (`type`):
            A dataclass.
    """
    known = [entry.name for entry in fields(cls) if entry.init]
    for key, value in given.items():
        if key not in known:
            near = near_names(key, known, most=3)
            hint = did_you_mean(
                key, known, most=3, shown=lambda name: f"`{section}.{name}`", otherwise=f"See `{cls.__name__}`."
            )
            shown = BLANK if any(is_secret_name(name) for name in near) else blanked(value, key)
            raise ConfigError(f"`{section}.{key}` is unknown (given: {shown!r}). {hint}")


def _shown(settings: Any) -> str:
    values = blanked({entry.name: getattr(settings, entry.name, None) for entry in fields(settings)})
    return f"{type(settings).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"

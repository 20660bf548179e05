"""All code that relies on TRL's internals: its versions, its fused head, its logs, its changes to the model.

`PatchTrainerMixin` makes a TRL trainer train the one trainable patch of a `PolicyPatchModel`. `checkpoints.py` saves
the patch; `patch_alone.py` keeps all other parameters fixed. `tests/training/test_trl_contract.py` checks what this
file relies on. Widen `SUPPORTED_TRL` when those tests pass on a newer version.
"""

import os
from copy import deepcopy
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from types import MethodType
from typing import Any

from packaging.specifiers import SpecifierSet

from policy_patch.errors import MissingExtraError
from policy_patch.extra import how_to_install
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.vectors import whole
from policy_patch.training.launch import end_after_collectives

SUPPORTED_TRL = SpecifierSet(">=1.16,<1.17")


def check_trl_version() -> None:
    """Raise `MissingExtraError` unless a supported version of TRL is installed."""
    try:
        installed = version("trl")
    except PackageNotFoundError as error:
        raise MissingExtraError(
            "Training needs TRL of the extra `policy-patch[train]`, which is not installed: "
            f"`{how_to_install('train')}`."
        ) from error
    if installed not in SUPPORTED_TRL:
        raise MissingExtraError(
            f"Training needs trl{SUPPORTED_TRL}; {installed} is installed. Its trainers change with every minor "
            f"version. The extra `policy-patch[train]` has the right one: `{how_to_install('train')}`."
        )


check_trl_version()

import torch  # noqa: E402  (after the version check, so that its message comes first)
from accelerate.utils import save_fsdp_optimizer  # noqa: E402
from torch import nn  # noqa: E402  (after the version check, so that its message comes first)
from transformers import TrainerCallback  # noqa: E402
from transformers.trainer import SCHEDULER_NAME  # noqa: E402
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # noqa: E402
from trl.trainer.utils import disable_dropout_in_model  # noqa: E402

from policy_patch.training.checkpoints import PatchCheckpoints, last_checkpoint  # noqa: E402
from policy_patch.training.company import Company, TrainsInCompany, company_of  # noqa: E402
from policy_patch.training.health import HealthWarnings, StopAtNaN  # noqa: E402
from policy_patch.training.interrupt import StopOnSignal  # noqa: E402
from policy_patch.training.norm_limit import NormLimit, mean_embedding_norm  # noqa: E402
from policy_patch.training.patch_alone import TrainsPatchAlone, trained_patch_name  # noqa: E402
from policy_patch.training.patch_norms import patch_norms  # noqa: E402
from policy_patch.training.processes import in_main_process  # noqa: E402
from policy_patch.training.progress import TrainingProgress  # noqa: E402
from policy_patch.training.restored import settings_restored  # noqa: E402
from policy_patch.training.stage_memory import StageMemory  # noqa: E402
from policy_patch.training.trackers import keep_base_private  # noqa: E402

IGNORED = -100  # transformers and TRL compute no loss at positions with this label


class PatchTrainerMixin(TrainsInCompany, TrainsPatchAlone, PatchCheckpoints):
    """Mixin that makes a TRL trainer train one patch. List it before the TRL class among the parents."""

    model: PolicyPatchModel
    _room: int | None  # how many tokens fit after the vectors

    def __init__(
        self,
        model: PolicyPatchModel,
        *args: Any,
        callbacks: list[TrainerCallback] | None = None,
        company: Company | None = None,
        **kw: Any,
    ):
        self.patch_name = trained_patch_name(model)
        self.company = company or company_of(model, kw.get("args"), kw.get("processing_class"))
        if self.company is not None and self._room is not None:
            self._room -= self.company.longest
        end_after_collectives()
        self._stop_on_signal = StopOnSignal()
        drop_fused_head(model)
        if getattr(kw.get("processing_class"), "pad_token", "") is None:
            kw["processing_class"] = deepcopy(kw["processing_class"])  # TRL sets a padding token in place
        parameter = model.patches[self.patch_name]
        vectors = parameter.data
        with settings_restored(model):
            super().__init__(model, *args, callbacks=[*(callbacks or []), self._stop_on_signal], **kw)
        if parameter.dtype != vectors.dtype:  # TRL 1.16 casts trainable parameters on a 4- or 8-bit base to bf16
            parameter.data = vectors.to(parameter.device)
        if self.is_fsdp_enabled and type(self.model).__name__.startswith("FSDP"):
            # The previous stage has sharded the model. accelerate 1.15 would search layers by their old class name.
            self.accelerator.state.fsdp_plugin.auto_wrap_policy = None
        score_labels_only(self.model)
        self._stage = StageMemory(whole(self.vectors()))
        self.add_callback(StopAtNaN(self.vectors))
        self.embedding_norm = mean_embedding_norm(self.model.get_input_embeddings())
        self.add_callback(HealthWarnings(self.embedding_norm))
        if getattr(self.args, "max_vector_norm", None):
            limit = self.args.max_vector_norm * self.embedding_norm
            self.add_callback(NormLimit(self.vectors, limit))
        self.remove_callback(PrinterCallback)  # prints every log entry to stdout
        if self.pop_callback(ProgressCallback) is not None:  # prints them, too, in addition to its bar
            self.add_callback(TrainingProgress)
        keep_base_private(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does. On the first Ctrl-C it finishes the step, saves a checkpoint, and then raises.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder, or `True` for the newest complete one in `args.output_dir`.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the checkpoint is saved; resume with `resume_from_checkpoint=True`.
        """
        if resume_from_checkpoint is True:  # upstream would also choose an incomplete checkpoint, and fail on it
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        if isinstance(resume_from_checkpoint, str):
            self._total_train_tokens = self._stage.load(resume_from_checkpoint)  # TRL would restart the count at 0
        self._stage.begin()
        self._last_step = (-1, 0)  # of an earlier call, which may have ended in the middle of the step that is next
        with settings_restored(self.model), self.only_the_patch(), self._stop_on_signal.listening():
            if getattr(self.args, "disable_dropout", False):  # the constructor does it, too, but then restores dropout
                disable_dropout_in_model(self.model)
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self._stop_on_signal.received:
            raise KeyboardInterrupt(
                f"Stopped at step {self.state.global_step} of {self.state.max_steps}. A checkpoint was saved in "
                f"`{self.args.output_dir}`; the same command resumes from there."
            )
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does. Add the norm of the vectors and their distance from the start of the stage."""
        logs.update(patch_norms(whole(self.vectors()), self._stage.start))
        if "train_runtime" in logs:  # the last entry; upstream counts seconds from the last resume only
            logs["stage_seconds"] = seconds = self._stage.seconds
            logs["tokens_per_second"] = self._total_train_tokens / seconds
        super().log(logs, start_time)

    def note(self, mode: str, **figures: torch.Tensor) -> None:
        """Add the figures of one batch (0-d tensors) to the averages of the next log entry.

        Args:
            mode (`str`):
                `"train"` or `"eval"`.
            **figures (`torch.Tensor`):
                Name and value of each figure.
        """
        for name, value in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather_for_metrics(value.detach()).mean().item())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the patch. A checkpoint also gets the state of the stage ([`StageMemory`])."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir:  # a checkpoint
            in_main_process(lambda: self._stage.save(output_dir, self._total_train_tokens))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Upstream would write the whole base, too.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        self.accelerator.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))


def score_labels_only(model: nn.Module) -> None:
    """Make TRL's fused head on `model` compute logits only at positions that have a label.

    With Triton, TRL 1.16 does so itself. Without Triton, TRL computes logits at every position, because some
    accelerators compile a graph for each shape. On a CPU that wastes time: the logits of the prompt are never used.
    """
    fused = model.forward.__func__

    @wraps(type(model).forward)
    def forward(self: nn.Module, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        wanted = labels is not None and kwargs.get("shift_labels") is None and labels.device.type == "cpu"
        mask = labels[:, 1:] != IGNORED if fused_lm_head and wanted else None  # (batch, length - 1)
        if mask is None or not mask.any():
            return fused(self, *args, fused_lm_head=fused_lm_head, **kwargs)
        kwargs.update(labels=None, shift_labels=labels[:, 1:][mask].unsqueeze(0))  # (1, labelled positions)
        output = fused(_OnlyLabelled(self, mask), *args, fused_lm_head=True, **kwargs)
        for name, values in output.items():
            if isinstance(values, torch.Tensor) and values.ndim == 2:  # (1, labelled positions)
                output[name] = values.new_zeros(mask.shape).masked_scatter(mask, values)
        return output

    model.forward = MethodType(forward, model)


class _OnlyLabelled:
    """A model whose backbone returns hidden states of the labelled positions only, `(1, positions, hidden)`."""

    def __init__(self, model: nn.Module, mask: torch.Tensor) -> None:
        self._model, self._mask = model, mask

    def base_model(self, *args: Any, **kwargs: Any) -> Any:
        output = self._model.base_model(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state[:, :-1][self._mask].unsqueeze(0)
        return output

    def __getattr__(self, name: str) -> Any:  # the head, and the number of experts of a mixture-of-experts model
        return getattr(self._model, name)


def drop_fused_head(model: nn.Module) -> None:
    """Undo TRL's `add_fused_lm_head`, which sets the instance attribute `forward`. Do nothing if it is not set."""
    model.__dict__.pop("forward", None)

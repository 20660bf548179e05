"""Makes a trainer train the vectors of one patch and no other parameter, and checks it at every step.

`policy_patch.model.freezing` freezes the base when a patch is put on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel


class TrainsPatchAlone:
    """Mixin of a transformers `Trainer`. The trainer must have `patch_name`, the name of the patch to train.

    Other parameters may require gradients when training begins: an unfrozen base, a LoRA on the base, a second patch.
    They are frozen while the patch trains, and unfrozen afterwards. If such a parameter is unfrozen during training,
    the next step is refused.
    """

    patch_name: str

    def vectors(self) -> nn.Parameter:
        """Return the trained vectors, `(num_virtual_tokens, hidden_size)`. Do not keep them: sharding replaces them."""
        return self.accelerator.unwrap_model(self.model).patches[self.patch_name]

    @contextmanager
    def only_the_patch(self) -> Iterator[None]:
        """Freeze all other parameters within the context. On exit, restore `requires_grad` and all buffers."""
        model = self.accelerator.unwrap_model(self.model)
        trained = f"patches.{self.patch_name}"
        requiring = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - {trained}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        _require_gradients(model, set(), but=trained)
        try:
            yield
        finally:
            model = self.accelerator.unwrap_model(self.model)
            _require_gradients(model, requiring, but=trained)
            _put_back(model, buffers)
            if getattr(self, "neftune_hook_handle", None) is not None:  # upstream does not remove it if training fails
                self.neftune_hook_handle.remove()
                vars(model.get_input_embeddings()).pop("neftune_noise_alpha", None)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimizer as upstream does, and register a check that runs before each of its steps.

        Raises:
            TrainingError: the user gave an optimizer that does not hold the patch.
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks of its own
        if inner is getattr(self, "_watched_optimizer", None) or not isinstance(inner, torch.optim.Optimizer):
            return optimizer
        if not any(parameter is self.vectors() for parameter in _parameters(inner)):
            raise TrainingError(
                f"The optimizer, a {type(inner).__name__}, does not hold the vectors of the patch "
                f"`{self.patch_name}`, so nothing would train. Give an optimizer over "
                f"`[model.patches[{self.patch_name!r}]]`, or none."
            )
        inner.register_step_pre_hook(self._check_step)
        self._watched_optimizer = inner
        return optimizer

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a step as upstream does, if the patch is the only parameter that requires a gradient.

        Raises:
            TrainingError: another parameter was unfrozen since training began, or the patch was frozen.
        """
        patched = self.accelerator.unwrap_model(model)
        trained = f"patches.{self.patch_name}"
        requiring = {name for name, parameter in patched.named_parameters() if parameter.requires_grad}
        if requiring != {trained}:
            if trained not in requiring:
                problem = f"The patch `{self.patch_name}` was frozen"
            else:
                others = sorted(name.removeprefix("_base_model.") for name in requiring - {trained})
                problem = f"{len(others)} other parameters were unfrozen (the first: `{others[0]}`)"
            raise TrainingError(
                f"{problem} while the patch trains, in step {self.state.global_step + 1}. A trainer of a patch changes "
                "its vectors and nothing else: do not change `requires_grad` during training."
            )
        return super().training_step(model, *args, **kwargs)

    def _check_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        """Raise `TrainingError` if the step would change another parameter than the patch."""
        vectors = self.vectors()
        others = [each for each in _parameters(optimizer) if each is not vectors and each.grad is not None]
        if others:
            raise TrainingError(
                f"The optimizer holds {len(others)} parameters with a gradient that are not the patch "
                f"`{self.patch_name}` (the first has the shape {tuple(others[0].shape)}). The step was not taken. Give "
                "an optimizer over the vectors of the patch only, or none."
            )


def trained_patch_name(model: Any) -> str:
    """Return the name of the patch of `model` that is active and trainable.

    Raises:
        TrainingError: `model` is not a `PolicyPatchModel`, or it has no such patch or several.
    """
    if not isinstance(model, PolicyPatchModel):
        raise TrainingError(
            f"`model` is a {type(model).__name__}; expected a PolicyPatchModel. Make one with `get_policy_patch_model`."
        )
    names = [name for name in model.active_patches if model.patches[name].requires_grad]
    if len(names) != 1:
        raise TrainingError(
            f"Exactly one active patch must be trainable; active: {model.active_patches}, trainable among them: "
            f"{names}. Load a patch to train it further with `is_trainable=True`."
        )
    return names[0]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _require_gradients(model: nn.Module, names: set[str], *, but: str) -> None:
    """Make the named parameters, and no others, require gradients. Do not change the parameter `but`."""
    for name, parameter in model.named_parameters():
        if name != but and parameter.requires_grad != (name in names):
            parameter.requires_grad_(name in names)


def _put_back(model: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    """Restore buffers, such as running statistics, that changed while the base was in training mode."""
    for name, buffer in model.named_buffers():
        before = buffers.get(name)
        if before is not None and buffer.shape == before.shape and not torch.equal(buffer, before.to(buffer.device)):
            buffer.copy_(before)

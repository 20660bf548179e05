"""What keeps a trainer to the vectors of one patch, whoever thaws the base: before training, and at every step.

Which settings and data a stage has is the business of the trainers; who froze a base, of `policy_patch.model.freezing`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel


class TrainsPatchAlone:
    """Mixin of a transformers `Trainer`. It asks for `patch_name`, the patch that trains.

    Other parameters that ask for a gradient when training begins (a base that was thawed, a LoRA that was put on it, a
    second patch) stay as they are while the patch trains, and ask for one again afterwards. If some do so in the midst
    of training, the next step is refused.
    """

    patch_name: str

    def vectors(self) -> nn.Parameter:
        """Return what trains, `(num_virtual_tokens, hidden_size)`. Sharding makes a new parameter of it."""
        return self.accelerator.unwrap_model(self.model).patches[self.patch_name]

    @contextmanager
    def only_the_patch(self) -> Iterator[None]:
        """Within the context no other parameter of the model asks for a gradient. Buffers are as before after it."""
        model = self.accelerator.unwrap_model(self.model)
        trained = f"patches.{self.patch_name}"
        asking = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - {trained}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        _ask_for_gradients(model, set(), but=trained)
        try:
            yield
        finally:
            model = self.accelerator.unwrap_model(self.model)
            _ask_for_gradients(model, asking, but=trained)
            _put_back(model, buffers)
            if getattr(self, "neftune_hook_handle", None) is not None:  # upstream leaves it where training fails
                self.neftune_hook_handle.remove()
                vars(model.get_input_embeddings()).pop("neftune_noise_alpha", None)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer as upstream does, and look at each of its steps before it is taken.

        Raises:
            TrainingError: it was given, and does not hold the patch.
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
        """Take a step as upstream does, if only the patch asks for a gradient.

        Raises:
            TrainingError: another parameter was thawed since training began, or the patch was frozen.
        """
        patched = self.accelerator.unwrap_model(model)
        trained = f"patches.{self.patch_name}"
        asking = {name for name, parameter in patched.named_parameters() if parameter.requires_grad}
        if asking != {trained}:
            if trained not in asking:
                problem = f"The patch `{self.patch_name}` was frozen"
            else:
                others = sorted(name.removeprefix("_base_model.") for name in asking - {trained})
                problem = f"{len(others)} other parameters were thawed (the first: `{others[0]}`)"
            raise TrainingError(
                f"{problem} while the patch trains, in step {self.state.global_step + 1}. A trainer of a patch changes "
                "its vectors and nothing else: leave `requires_grad` alone until it is done."
            )
        return super().training_step(model, *args, **kwargs)

    def _check_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        """Raise `TrainingError` if the step would change anything but the patch."""
        vectors = self.vectors()
        others = [each for each in _parameters(optimizer) if each is not vectors and each.grad is not None]
        if others:
            raise TrainingError(
                f"The optimizer holds {len(others)} parameters with a gradient that are not the patch "
                f"`{self.patch_name}` (the first has the shape {tuple(others[0].shape)}). The step was not taken. Give "
                "an optimizer over the vectors of the patch alone, or none."
            )


def trained_patch_name(model: Any) -> str:
    """Return the name of the one patch of `model` that is active and trainable.

    Raises:
        TrainingError: no `PolicyPatchModel`, or no such patch, or several.
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


def _ask_for_gradients(model: nn.Module, names: set[str], *, but: str) -> None:
    """Let the named parameters ask for a gradient, and no others; leave the parameter `but` as it is."""
    for name, parameter in model.named_parameters():
        if name != but and parameter.requires_grad != (name in names):
            parameter.requires_grad_(name in names)


def _put_back(model: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    """Write back what running statistics and the like have become while the base was in training mode."""
    for name, buffer in model.named_buffers():
        before = buffers.get(name)
        if before is not None and buffer.shape == before.shape and not torch.equal(buffer, before.to(buffer.device)):
            buffer.copy_(before)

"""The attributes that a patched model forwards to its base, each written out.

There is no general `__getattr__`, on purpose: it would return the base's `generate`, which silently runs unpatched.
A value that is assigned to one of these names is set on the base. Methods of the base cannot be replaced this way.
"""

import inspect
from typing import Any

from policy_patch._compat import is_checkpointing
from policy_patch.errors import DelegationError


class _OfBase:
    """Forwards an attribute to the base, optionally under another name. If the base lacks it, so does this model."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        return getattr(model.get_base_model(), self.name)

    def __set__(self, model: Any, value: Any) -> None:
        base = model.get_base_model()
        if callable(getattr(type(base), self.name, None)):
            raise DelegationError(
                f"`{self.name}` is a method of the base, {type(base).__name__}, and a patched model only forwards it. "
                f"Replace it on the base: `model.get_base_model().{self.name} = ...`."
            )
        try:
            setattr(base, self.name, value)
        except AttributeError as error:
            raise DelegationError(
                f"`{self.name}` belongs to the base, {type(base).__name__}, and cannot be assigned there ({error})."
            ) from error

    def __delete__(self, model: Any) -> None:
        raise DelegationError(f"`{self.name}` belongs to the base and cannot be deleted through a patched model.")


class _Answer(property):
    """A read-only property that is computed from the base."""

    def __set__(self, model: Any, value: Any) -> None:
        name = self.fget.__name__
        raise DelegationError(
            f"`{name}` is computed from the base, {type(model.get_base_model()).__name__}, and cannot be assigned "
            "through a patched model. Change the base: `model.get_base_model()`."
        )


class BaseDelegation:
    """Mixin that forwards attributes about configuration, device and training to the base.

    transformers' `Trainer` and TRL 1.16 read these attributes; none of them runs the base.
    """

    config = _OfBase()
    generation_config = _OfBase()
    device = _OfBase()
    dtype = _OfBase()
    name_or_path = _OfBase()
    main_input_name = _OfBase()
    num_parameters = _OfBase()
    floating_point_ops = _OfBase()
    get_input_embeddings = _OfBase()
    get_output_embeddings = _OfBase()
    can_generate = _OfBase()
    _supports_logits_to_keep = _OfBase()  # assisted decoding reads it from the assistant model

    supports_gradient_checkpointing = _OfBase()
    gradient_checkpointing_enable = _OfBase()
    gradient_checkpointing_disable = _OfBase()
    activation_checkpointing_enable = _OfBase()
    enable_input_require_grads = _OfBase()
    disable_input_require_grads = _OfBase()

    is_quantized = _OfBase()
    is_loaded_in_4bit = _OfBase()
    is_loaded_in_8bit = _OfBase()
    quantization_method = _OfBase()
    hf_quantizer = _OfBase()
    hf_device_map = _OfBase()
    _no_split_modules = _OfBase()  # the layers that FSDP shards one by one

    # transformers trains a quantised model only if it has an adapter; a patch counts as one.
    _hf_peft_config_loaded = True

    @_Answer
    def is_activation_checkpointing(self) -> bool:
        """Return whether activation checkpointing is on in the base."""
        return is_checkpointing(self.get_base_model())

    @_Answer
    def is_gradient_checkpointing(self) -> bool:
        """Return the same under the old name. TRL 1.16 reads it; transformers warns about it."""
        return is_checkpointing(self.get_base_model())

    @_Answer
    def loss_type(self) -> str:
        """Return the name of the base's loss. Trainers need it to know whether the loss shifts the labels.

        Some classes, such as GPT-2's, do not name their loss; then it is the loss of causal models.
        """
        from transformers.loss.loss_utils import LOSS_MAPPING

        name = getattr(self.get_base_model(), "loss_type", None)
        return name if name in LOSS_MAPPING else "ForCausalLM"

    @_Answer
    def accepts_loss_kwargs(self) -> bool:
        """Return whether the base's loss takes `num_items_in_batch`. Our `forward` passes this argument to the base."""
        base = self.get_base_model()
        kinds = [parameter.kind for parameter in inspect.signature(base.forward).parameters.values()]
        return getattr(base, "accepts_loss_kwargs", inspect.Parameter.VAR_KEYWORD in kinds)

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Store tags for the patch's card. The base's own tags do not change."""
        tags = [tags] if isinstance(tags, str) else tags
        known = self.__dict__.setdefault("model_tags", [])
        known.extend(tag for tag in tags if tag not in known)

"""The names of the base that a patched model answers for it, each written out.

There is no blanket `__getattr__` on purpose: it would hand out the base's `generate`, which runs unpatched, silently.
Values that are assigned to these names reach the base; its methods cannot be replaced from here.
"""

import inspect
from typing import Any

from policy_patch._compat import is_checkpointing
from policy_patch.errors import DelegationError


class _OfBase:
    """Forwards an attribute to the base, optionally under another name. Where the base has none, there is none."""

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
                f"`{self.name}` is a method of the base, {type(base).__name__}, which a patched model only passes on. "
                f"Replace it on the base: `model.get_base_model().{self.name} = ...`."
            )
        try:
            setattr(base, self.name, value)
        except AttributeError as error:
            raise DelegationError(
                f"`{self.name}` belongs to the base, {type(base).__name__}, where it cannot be assigned ({error})."
            ) from error

    def __delete__(self, model: Any) -> None:
        raise DelegationError(f"`{self.name}` belongs to the base and cannot be deleted through a patched model.")


class _Answer(property):
    """A question about the base that has its answer here, and takes none."""

    def __set__(self, model: Any, value: Any) -> None:
        name = self.fget.__name__
        raise DelegationError(
            f"`{name}` is read off the base, {type(model.get_base_model()).__name__}, and cannot be assigned through a "
            "patched model. Change the base: `model.get_base_model()`."
        )


class BaseDelegation:
    """Mixin that answers configuration, device and trainer questions from the base.

    transformers' `Trainer` and TRL 1.16 ask for these names; none of them runs the base.
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
    _supports_logits_to_keep = _OfBase()  # asked of the assistant in assisted decoding

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

    # transformers refuses to train a quantised model unless it carries an adapter; a patch is one.
    _hf_peft_config_loaded = True

    @_Answer
    def is_activation_checkpointing(self) -> bool:
        """Whether activation checkpointing is on in the base."""
        return is_checkpointing(self.get_base_model())

    @_Answer
    def is_gradient_checkpointing(self) -> bool:
        """The same under its old name, which TRL 1.16 asks for; transformers warns of it."""
        return is_checkpointing(self.get_base_model())

    @_Answer
    def loss_type(self) -> str:
        """Name of the base's loss; trainers ask whether it shifts the labels, to count them rightly.

        Where the name of a class says nothing of it, as GPT-2's, the base's loss is that of causal models.
        """
        from transformers.loss.loss_utils import LOSS_MAPPING

        name = getattr(self.get_base_model(), "loss_type", None)
        return name if name in LOSS_MAPPING else "ForCausalLM"

    @_Answer
    def accepts_loss_kwargs(self) -> bool:
        """Whether the base's loss takes `num_items_in_batch`; this model's `forward` hands on what it is given."""
        base = self.get_base_model()
        kinds = [parameter.kind for parameter in inspect.signature(base.forward).parameters.values()]
        return getattr(base, "accepts_loss_kwargs", inspect.Parameter.VAR_KEYWORD in kinds)

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Note tags for the patch's card. The base keeps its own."""
        tags = [tags] if isinstance(tags, str) else tags
        known = self.__dict__.setdefault("model_tags", [])
        known.extend(tag for tag in tags if tag not in known)

"""Loads a LoRA adapter of PEFT as one of the systems to compare with. Only this file imports PEFT, which is optional.

It never trains or saves an adapter.
"""

import warnings
from collections.abc import Callable
from typing import Any

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import EvaluationError, MissingExtraError


def lora_loader(load_base: Callable[[], Any], folder: str, *, merged: bool = False) -> Callable[[], Any]:
    """Return a function that loads a base with a LoRA adapter of PEFT, as the `model` of a [`System`].

    Args:
        load_base (`Callable[[], PreTrainedModel]`):
            Loads a base that nothing else uses, because PEFT changes it.
        folder (`str`):
            Folder or Hub id of the adapter.
        merged (`bool`, *optional*, defaults to `False`):
            Merge the adapter into the base's weights, as is usual for serving.

    Raises:
        MissingExtraError: raised by the returned function if peft is not installed.
        EvaluationError: raised by the returned function if PEFT cannot load the adapter.
    """

    def load() -> Any:
        try:
            from peft import PeftModel
        except ImportError as error:
            raise MissingExtraError("Comparing with a LoRA adapter needs peft. Run: pip install peft") from error
        base = load_base()
        try:
            with warnings.catch_warnings():
                # PEFT only warns about missing weights; the result would be the plain base.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                with loading():
                    model = PeftModel.from_pretrained(base, folder)
                check_has_values(model, f"the adapter `{folder}`")
        except (OSError, ValueError, RuntimeError, UserWarning) as error:
            words = (str(error).splitlines() or [type(error).__name__])[0]
            raise EvaluationError(f"PEFT cannot load `{folder}` on this base: {words}") from error
        return model.merge_and_unload() if merged else model

    return load

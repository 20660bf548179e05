"""A LoRA folder of PEFT as one of the systems to compare with: the only place that knows PEFT, which is optional.

It loads an adapter; it never trains or saves one.
"""

import warnings
from collections.abc import Callable
from typing import Any

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import EvaluationError, MissingExtraError


def lora_loader(load_base: Callable[[], Any], folder: str, *, merged: bool = False) -> Callable[[], Any]:
    """Return a function that loads a base with a LoRA folder of PEFT, to compare with; for [`System`].

    Args:
        load_base (`Callable[[], PreTrainedModel]`):
            Loads a base that nobody else uses: PEFT changes it.
        folder (`str`):
            Folder or Hub id of the adapter.
        merged (`bool`, *optional*, defaults to `False`):
            Add the adapter to the base's weights, as one would to serve it.

    Raises:
        MissingExtraError: by the function: peft is not installed. It is no dependency of ours.
        EvaluationError: by the function: PEFT cannot load the adapter.
    """

    def load() -> Any:
        try:
            from peft import PeftModel
        except ImportError as error:
            raise MissingExtraError("A LoRA folder to compare with needs peft. Run: pip install peft") from error
        base = load_base()
        try:
            with warnings.catch_warnings():
                # It would be the base under another name.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                with loading():
                    model = PeftModel.from_pretrained(base, folder)
                check_has_values(model, f"the adapter `{folder}`")
        except (OSError, ValueError, RuntimeError, UserWarning) as error:
            words = (str(error).splitlines() or [type(error).__name__])[0]
            raise EvaluationError(f"PEFT cannot load `{folder}` on this base: {words}") from error
        return model.merge_and_unload() if merged else model

    return load

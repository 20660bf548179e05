"""TRL's `DPOTrainer` with a frozen copy of the patch as the reference, and no second copy of the base.

`adopted.py` uses it in place of TRL's class if the model is a `PolicyPatchModel`. `PolicyPatchDPOTrainer`, which offers
several references, does not use it.
"""

import weakref
from typing import Any

from policy_patch.training._trl import check_trl_version

check_trl_version()

from trl import DPOTrainer  # noqa: E402  (after the version check, which has a clearer error)
from trl.trainer.utils import disable_dropout_in_model  # noqa: E402

from policy_patch.training.reference import shared_reference  # noqa: E402


class ReferenceFromPolicy(DPOTrainer):
    """`DPOTrainer` with another default reference: without a `ref_model`, TRL would load the base without the patch."""

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, *more: Any, **kwargs: Any) -> None:
        if ref_model is None:
            ref_model = shared_reference(model, patched=True)
            weakref.finalize(self, ref_model.unload)  # removes its hooks from the base
        super().__init__(model, ref_model, args, *more, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does."""
        if self.args.disable_dropout:  # the constructor does it, too, but then restores dropout
            disable_dropout_in_model(self.accelerator.unwrap_model(self.model))
        return super().train(*args, **kwargs)

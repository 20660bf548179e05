"""TRL's `DPOTrainer` whose reference is the policy as it was given, without a second copy of the base.

It stands in for TRL's own where the model is a `PolicyPatchModel` (`adopted.py`). `PolicyPatchDPOTrainer` chooses among
several references, and needs none of this.
"""

import weakref
from typing import Any

from policy_patch.training._trl import check_trl_version

check_trl_version()

from trl import DPOTrainer  # noqa: E402  (after the version check, which explains itself better)
from trl.trainer.utils import disable_dropout_in_model  # noqa: E402

from policy_patch.training.reference import shared_reference  # noqa: E402


class ReferenceFromPolicy(DPOTrainer):
    """`DPOTrainer`, other than TRL's where no `ref_model` is given: TRL would load the bare base from its folder."""

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, *more: Any, **kwargs: Any) -> None:
        if ref_model is None:
            ref_model = shared_reference(model, patched=True)
            weakref.finalize(self, ref_model.unload)  # takes its hooks off the base
        super().__init__(model, ref_model, args, *more, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does."""
        if self.args.disable_dropout:  # done in the constructor too, but put back after it
            disable_dropout_in_model(self.accelerator.unwrap_model(self.model))
        return super().train(*args, **kwargs)

"""`evaluating` puts each module back into the mode it had."""

import pytest

from policy_patch.answers.eval_mode import evaluating
from tests.tiny_models import tiny_model


def test_modes_are_put_back_also_after_an_error():
    model = tiny_model().train()
    model.lm_head.eval()
    before = [module.training for module in model.modules()]

    def stop_within() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_within()
    assert [module.training for module in model.modules()] == before

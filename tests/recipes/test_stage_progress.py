"""Tests of `recipes.stage_progress`: the progress of a training stage is reported from its first step on."""

from types import SimpleNamespace

from policy_patch.recipes.stage_progress import StageProgress


def test_each_step_is_reported_with_the_name_of_its_stage():
    calls = []
    callback, state = StageProgress(lambda *call: calls.append(call)), SimpleNamespace(global_step=4, max_steps=6)
    callback.on_train_begin(SimpleNamespace(beta=0.1), state, None)
    state.global_step = 5
    callback.on_step_end(SimpleNamespace(), state, None)
    assert calls == [("training, DPO", 4, 6), ("training, SFT", 5, 6)]

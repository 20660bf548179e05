"""Tests of `recipes.training_told`: a stage of training is told of from where it begins, step by step."""

from types import SimpleNamespace

from policy_patch.recipes.training_told import TrainingTold


def test_each_step_is_told_with_the_name_of_its_stage():
    told = []
    callback, state = TrainingTold(lambda *one: told.append(one)), SimpleNamespace(global_step=4, max_steps=6)
    callback.on_train_begin(SimpleNamespace(beta=0.1), state, None)
    state.global_step = 5
    callback.on_step_end(SimpleNamespace(), state, None)
    assert told == [("training, DPO", 4, 6), ("training, SFT", 5, 6)]

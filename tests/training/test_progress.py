"""Tests of `training.progress`: the figures beside the bar, and the bar itself in a real run."""

import pytest

from policy_patch.training.progress import TrainingProgress, figures
from tests.training.synthetic import TRAINERS, patched


def test_the_figures_are_short_and_in_a_fixed_order():
    logs = {
        "patch/distance": 0.0902, "patch/norm": 1.4249, "loss": "0.4285", "rewards/accuracies": 0.931,
        "rewards/margins": 0.685, "learning_rate": 1e-3,
    }  # fmt: skip
    assert figures(logs) == "loss 0.428, accuracy 0.93, margin 0.685, norm 1.42, moved 9.0%"


def test_an_evaluation_is_shown_and_an_entry_without_a_loss_is_not():
    assert (
        figures({"eval_loss": 2.0, "patch/norm": 1.0, "patch/distance": 0.5}) == "eval loss 2.000, norm 1, moved 50.0%"
    )
    assert figures({"train_runtime": 3.0, "patch/norm": 1.0}) == ""
    assert figures({}) == ""


@pytest.mark.parametrize("stage", TRAINERS)
def test_the_bar_of_a_run_shows_loss_and_norm(stage, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("tqdm.std.tqdm.set_postfix_str", lambda self, text, *args, **kwargs: shown.append(text))
    trainer = TRAINERS[stage](patched(), tmp_path, disable_tqdm=False)
    assert [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TrainingProgress)]
    trainer.train()
    assert len(shown) == 4
    assert all("loss " in text and "norm " in text and "moved " in text for text in shown)
    assert ("accuracy" in shown[-1]) == (stage == "dpo")

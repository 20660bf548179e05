"""Tests of `cli.training_progress`: one bar a stage, with the newest figures, that always ends."""

from types import SimpleNamespace

from policy_patch.cli.training_progress import RichProgress

SFT, DPO = SimpleNamespace(), SimpleNamespace(beta=0.1)


def test_the_bar_follows_the_steps_and_shows_the_newest_figures():
    progress, state = RichProgress(), SimpleNamespace(max_steps=8, global_step=2)
    progress.on_train_begin(DPO, state, None)
    task = progress._bars.tasks[0]
    assert (task.description, task.total, task.completed) == ("training, DPO", 8, 2)
    state.global_step = 3
    progress.on_step_end(DPO, state, None)
    progress.on_log(DPO, state, None, {"loss": 0.5, "patch/norm": 1.5, "patch/distance": 0.25})
    assert task.completed == 3
    assert task.fields["figures"] == "loss 0.500, norm 1.5, moved 25.0%"
    progress.on_log(DPO, state, None, {"train_runtime": 3.0, "patch/norm": 1.5})
    assert task.fields["figures"].startswith("loss 0.500"), "the last entry of a stage hides nothing"
    progress.on_train_end(DPO, state, None)
    assert progress._bars.live.is_started is False


def test_each_stage_gets_a_bar_of_its_own():
    progress, state = RichProgress(), SimpleNamespace(max_steps=4, global_step=0)
    for args, word in ((SFT, "SFT"), (DPO, "DPO")):
        progress.on_train_begin(args, state, None)
        assert [task.description for task in progress._bars.tasks] == [f"training, {word}"]
        progress.close()


def test_closing_before_it_began_does_nothing():
    progress = RichProgress()
    progress.close()
    assert progress._bars is None

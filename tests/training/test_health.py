"""Tests of `training.health`: an alarm on each kind of bad run, none on good ones, and no NaN on disk."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from policy_patch.errors import TrainingError
from policy_patch.training.health import StageFacts, StopAtNaN, findings
from policy_patch.training.patch_norms import DISTANCE, NORM
from tests.training.synthetic import TRAINERS, losses, patched, preference_pairs, two_stage_trainer, vectors_of

FACTS = StageFacts(max_steps=100, rows_per_step=16, learning_rate=1e-2, embedding_norm=1.5)
LN2 = math.log(2)


def sft_log(values, *, every=10, norm=1.6, distance=0.1):
    """Return the log of an SFT stage with these losses, the first of them at step 1."""
    steps = [1, *range(every, every * len(values), every)]
    return [{"step": step, "loss": loss, NORM: norm, DISTANCE: distance} for step, loss in zip(steps, values)]


def dpo_log(values, accuracies, **changes):
    """Return the log of a DPO stage; the accuracy of the first step, where all margins are 0, is 0."""
    entries = sft_log([LN2, *values], **changes)
    for entry, accuracy in zip(entries, [0.0, *accuracies]):
        entry["rewards/accuracies"] = accuracy
    return entries


def found(entries, **changes):
    """Return what is found after any of the entries."""
    facts = StageFacts(**{**vars(FACTS), **changes})
    return {name for end in range(1, len(entries) + 1) for name in findings(entries[:end], facts)}


# Good runs


@pytest.mark.parametrize(
    "entries",
    [
        sft_log([1.64, 1.62, 1.47, 1.48, 1.51, 1.63, 1.52, 1.49, 1.47]),  # the lab: all noise behind the first steps
        sft_log([1.48, 1.50, 1.53, 1.49, 1.55, 1.51, 1.50]),  # ends above its start, by a hard batch
        sft_log([4.0] * 9),
        dpo_log([0.61, 0.46, 0.43], [0.88, 0.99, 0.93]),
        dpo_log([0.68, 0.62, 0.58, 0.55, 0.52], [0.59, 0.72, 0.74, 0.75, 0.78]),  # a slow start
        dpo_log([0.2, 0.03, 0.3, 0.02], [0.9, 0.99, 0.95, 0.99]),  # tiny losses with a bad batch
    ],
)
def test_good_logs_raise_no_alarm(entries):
    assert found(entries) == set()


def test_noise_of_single_rows_raises_no_alarm():
    torch.manual_seed(0)
    noisy = (4 * (1 + 0.3 * torch.randn(400))).tolist()
    assert found(sft_log(noisy, every=1), rows_per_step=1, max_steps=400) == set()
    accuracies = (torch.rand(200) < 0.8).float().tolist()
    assert found(dpo_log([0.5] * 200, accuracies, every=1), rows_per_step=1, max_steps=200) == set()


def test_a_teacher_as_reference_with_its_high_loss_and_accuracy_of_zero_raises_no_alarm():
    entries = dpo_log([15.75, 15.1, 14.6], [0.0, 0.0, 0.0])
    entries[0]["loss"] = 17.5
    assert found(entries, max_steps=30) == set()


def test_nothing_is_found_in_an_empty_log_or_one_without_losses():
    assert findings([], FACTS) == {}
    assert findings([{"step": 3, "eval_loss": 2.0}], FACTS) == {}


# Bad runs


def test_vectors_that_stand_still_are_told_from_half_time_on():
    entries = sft_log([1.64, 1.64, 1.52, 1.55, 1.55, 1.68], distance=1e-3)
    assert findings(entries[:-1], FACTS) == {}
    message = findings(entries, FACTS)["still"]
    assert message == (
        "The loss does not move: 1.640 at step 1, 1.680 at step 50 of 100. The vectors moved by 0.1% of their norm. "
        "Raise `learning_rate` (it is 0.01; 1e-2 for SFT and 5e-3 for DPO are usual), or train for more steps."
    )


def test_a_loss_that_rises_is_told_with_what_to_lower():
    message = findings(sft_log([2.0, 2.5, 4.0, 5.0]), FACTS)["rising"]
    assert message.startswith("The loss diverges: 2.000 at the start, 3.8")
    assert "Lower `learning_rate` (it is 0.01), raise `warmup_steps`" in message
    assert "or `beta`" in findings(dpo_log([1.5, 2.5, 3.0], [0.9, 0.9, 0.9]), FACTS)["rising"]


def test_the_start_of_a_preference_loss_is_exact_with_one_row_as_well():
    entries = dpo_log([6.2, 5.2, 3.0], [0.9, 0.9, 0.9], every=1)
    assert found(entries, rows_per_step=1) == {"rising"}


def test_chance_is_told_from_a_quarter_on_once_enough_rows_were_seen():
    entries = dpo_log([0.69] * 6, [0.43, 0.56, 0.47, 0.55, 0.5, 0.52])
    assert findings(entries[:3], FACTS) == {}
    message = findings(entries[:4], FACTS)["chance"]
    assert message.startswith("The reward accuracy stays at chance: 0.52 over the steps to 30 of 100. Check the pairs")
    assert found(entries, rows_per_step=1) == set(), "30 rows say nothing"


def test_vectors_out_of_proportion_are_told_at_once():
    message = findings(sft_log([1.6], norm=31.0), FACTS)["long"]
    assert "their mean norm is 31 at step 1, 21 times that of a token embedding" in message
    assert "set `max_vector_norm`" in message
    assert found(sft_log([1.6], norm=29.0)) == set()


# Real runs

RUN = {"max_steps": 16, "per_device_train_batch_size": 8, "logging_steps": 4}


def exchanged(count):
    """Return pairs of which half have the better answer in the wrong column."""
    rows = preference_pairs(count).to_list()
    for number, row in enumerate(rows):
        if (number * 7 // 3) % 2:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return Dataset.from_list(rows)


def warnings_of(trainer, caplog):
    """Train, and return the kinds of warnings in the log, having checked that each was told once."""
    with caplog.at_level(logging.WARNING, "policy_patch.training.health"):
        trainer.train()
    noted = [warning for entry in trainer.state.log_history for warning in entry.get("warnings", {}).items()]
    told = [record.message for record in caplog.records if record.name == "policy_patch.training.health"]
    assert told == [message for _, message in noted]
    assert len({kind for kind, _ in noted}) == len(noted)
    return {kind for kind, _ in noted}


@pytest.mark.parametrize("stage", TRAINERS)
def test_a_good_run_is_silent(stage, tmp_path, caplog):
    assert warnings_of(TRAINERS[stage](patched(), tmp_path, preference_pairs(64), **RUN), caplog) == set()


@pytest.mark.parametrize(
    ("stage", "pairs", "changes", "expected"),
    [
        ("sft", preference_pairs, {"learning_rate": 1e-7}, {"still"}),
        ("dpo", preference_pairs, {"learning_rate": 1e-7}, {"still"}),
        ("sft", preference_pairs, {"learning_rate": 10.0}, {"long"}),
        ("dpo", preference_pairs, {"learning_rate": 10.0}, {"long"}),
        ("dpo", exchanged, {"learning_rate": 0.1, "beta": 50.0}, {"rising", "chance"}),
    ],
)
def test_each_bad_run_is_told_of_once(stage, pairs, changes, expected, tmp_path, caplog):
    trainer = TRAINERS[stage](patched(), tmp_path, pairs(64), **{**RUN, **changes})
    assert warnings_of(trainer, caplog) == expected


def test_warnings_can_be_switched_off(tmp_path, caplog):
    trainer = TRAINERS["sft"](patched(), tmp_path, **RUN, learning_rate=10.0)
    trainer.args.health_warnings = False
    assert warnings_of(trainer, caplog) == set()


def test_a_warning_is_not_repeated_by_a_resumed_run(tmp_path, caplog):
    settings = {**RUN, "learning_rate": 10.0, "save_strategy": "steps", "save_steps": 8}
    TRAINERS["sft"](patched(), tmp_path, **settings).train()
    caplog.clear()
    resumed = TRAINERS["sft"](patched(), tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert sum("warnings" in entry for entry in resumed.state.log_history) == 1
    assert not [record for record in caplog.records if record.name == "policy_patch.training.health"]


# Vectors that are no longer finite


def break_vectors_in(trainer, step, value=math.nan):
    """Have one number of the vectors become `value` in the optimizer's step `step`."""

    def optimizer_step(*args, original=trainer.optimizer.step, **kwargs):
        result = original(*args, **kwargs)
        if trainer.state.global_step + 1 == step:
            trainer.vectors().data[0, 0] = value
        return result

    trainer.optimizer.step = optimizer_step


def finite_everywhere(folder: Path) -> bool:
    return all(
        bool(tensor.isfinite().all()) for path in folder.rglob("*.safetensors") for tensor in load_file(path).values()
    )


@pytest.mark.parametrize("stage", TRAINERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_training_stops_before_a_broken_patch_is_saved_and_names_the_last_good_checkpoint(stage, value, tmp_path):
    trainer = TRAINERS[stage](patched(), tmp_path, max_steps=6, save_strategy="steps", save_steps=2)
    trainer.create_optimizer()
    break_vectors_in(trainer, 4, value)
    message = (
        r"Training diverged: after step 4 of 6 the vectors are no longer finite\. They were not saved; the last "
        r"good checkpoint is `.*checkpoint-2`\. Lower `learning_rate` \(it is 0\.01\)"
    )
    with pytest.raises(TrainingError, match=message):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert finite_everywhere(tmp_path)


def test_a_learning_rate_beyond_all_measure_ends_with_our_error_and_a_report(tmp_path):
    model = patched()
    with pytest.raises(
        TrainingError, match=r"after step 1 of 6 .*Nothing was saved\. Lower `learning_rate` \(it is 1e\+30"
    ):
        two_stage_trainer(model, tmp_path, sft={"learning_rate": 1e30}).train()
    assert not torch.isfinite(vectors_of(model).norm())
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "| steps | 0 of 6 |" in (tmp_path / "training_report.md").read_text()


def test_healthy_vectors_go_on():
    assert StopAtNaN(lambda: torch.full((2, 2), 1e15)).on_step_end(None, None, None) is None


def test_the_log_of_a_run_with_warnings_is_plain_json(tmp_path):
    log = two_stage_trainer(patched(), tmp_path, sft={"learning_rate": 10.0}, dpo={"max_steps": 0}).train()
    stored = json.loads((tmp_path / "training_log.json").read_text(), parse_constant=pytest.fail)
    assert stored["sft"] == log.sft
    assert "long" in stored["sft"][0]["warnings"]
    assert len(losses(log.sft)) == 6

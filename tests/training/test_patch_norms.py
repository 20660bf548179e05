"""Tests of `training.patch_norms`: the two figures by their definition, and in every log entry."""

import json
import math

import numpy as np
import pytest
import torch

from policy_patch.training.patch_norms import DISTANCE, NORM, patch_norms
from tests.tiny_models import tiny_model
from tests.training.synthetic import TRAINERS, patched, preference_pairs, two_stage_trainer, vectors_of


def by_definition(vectors, start):
    """Return the figures, by numpy in double precision."""
    now, before = vectors.double().numpy(), start.double().numpy()
    return {
        NORM: float(np.mean([np.sqrt((row**2).sum()) for row in now])),
        DISTANCE: float(np.sqrt(((now - before) ** 2).sum()) / np.sqrt((before**2).sum())),
    }


def test_the_figures_are_those_of_the_definition():
    torch.manual_seed(0)
    start, vectors = torch.randn(5, 7), torch.randn(5, 7)
    assert patch_norms(vectors, start) == pytest.approx(by_definition(vectors, start))


def test_a_start_of_zeros_gives_the_distance_itself():
    assert patch_norms(torch.ones(1, 4), torch.zeros(1, 4)) == {NORM: 2.0, DISTANCE: 2.0}


def test_half_precision_is_measured_in_single():
    vectors = torch.full((2, 2), 300.0, dtype=torch.float16)  # its squares overflow in half precision
    assert patch_norms(vectors, vectors)[NORM] == pytest.approx(300 * math.sqrt(2))


@pytest.mark.parametrize("stage", TRAINERS)
def test_every_log_entry_of_a_stage_has_them_and_the_last_are_those_of_the_patch(stage, tmp_path):
    model = patched()
    start = vectors_of(model)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": preference_pairs(4)}
    trainer = TRAINERS[stage](model, tmp_path, **settings)
    trainer.train()
    history = trainer.state.log_history
    assert {"loss", "eval_loss", "train_runtime"} <= {name for entry in history for name in entry}
    assert all(NORM in entry and DISTANCE in entry for entry in history)
    expected = by_definition(vectors_of(model), start)
    assert {name: history[-1][name] for name in expected} == pytest.approx(expected)
    distances = [entry[DISTANCE] for entry in history if "loss" in entry]
    assert distances[0] > 0 and distances == sorted(distances)


def test_the_second_stage_counts_from_where_the_first_one_ended(tmp_path):
    log = two_stage_trainer(patched(), tmp_path, dpo={"learning_rate": 1e-9}).train()
    assert log.dpo[0][NORM] == pytest.approx(log.sft[-1][NORM])
    assert log.dpo[-1][DISTANCE] < 1e-6 < log.sft[-1][DISTANCE]
    assert json.loads((tmp_path / "training_log.json").read_text())["dpo"] == log.dpo


def test_the_first_step_is_logged_whatever_the_interval(tmp_path):
    trainer = TRAINERS["dpo"](patched(), tmp_path, logging_steps=3)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 3]
    assert entries[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_nothing_is_logged_where_nothing_is_to_be(tmp_path):
    trainer = TRAINERS["sft"](patched(), tmp_path, logging_strategy="no")
    trainer.train()
    assert not [entry for entry in trainer.state.log_history if "loss" in entry]


def test_a_model_in_half_precision_is_measured_as_well(tmp_path):
    from policy_patch import PolicyPatchConfig, get_policy_patch_model

    model = get_policy_patch_model(
        tiny_model().to(torch.bfloat16), PolicyPatchConfig(num_virtual_tokens=4, init="random")
    )
    start = vectors_of(model)
    trainer = TRAINERS["sft"](model, tmp_path)
    trainer.train()
    expected = by_definition(vectors_of(model), start)
    assert {name: trainer.state.log_history[-1][name] for name in expected} == pytest.approx(expected)

"""Tests of `evaluation.costs` and `evaluation.measured_patches`: what an evaluation records for the release gate."""

from dataclasses import replace

import numpy as np
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.evaluation.costs import costs_of
from policy_patch.evaluation.measured_patches import measured_patches
from policy_patch.evaluation.observed import Observed
from policy_patch.patch.vectors import vectors_hash
from tests.tiny_models import tiny_model


def test_refusals_count_unless_they_are_no_text():
    answers = [["I cannot do that.", "Sure."], ["I cannot do that.", ""]]
    unusable = np.array([[False, False], [True, True]])
    seen = Observed(["a", "b"], answers, unusable, [], [], unusable[:0], None)
    assert costs_of(seen) == {"refused": [0.5, 0.0], "unusable": [0.0, 1.0]}


def test_neutral_texts_give_a_loss_per_token_and_the_last_word():
    none = np.zeros((1, 1), dtype=bool)
    neutral = (np.array([6.0, 0.0]), np.array([3, 0]))
    seen = Observed(["a"], [["x"]], none, [], [], none[:0], None, neutral, last_word=np.array([1.0, 0.0]))
    found = costs_of(seen)
    assert (found["neutral_nll_per_token"], found["last_word"]) == ([2.0, 0.0], [1.0, 0.0])


def test_a_patch_is_recorded_by_its_vectors_and_its_base(tokenizer):
    base = tiny_model()
    model = get_policy_patch_model(
        base, PolicyPatchConfig(num_virtual_tokens=2, init="vocab", risk="toxicity"), tokenizer=tokenizer
    )
    (one,) = measured_patches(model, tokenizer)
    assert (one.name, one.risk, one.on_its_base) == ("default", "toxicity", True)
    assert one.vectors_sha256 == vectors_hash(model.patches["default"])
    with torch.no_grad():
        model.patches["default"][0, 0] += 1e-3
    (other,) = measured_patches(model, tokenizer)
    assert other.vectors_sha256 != one.vectors_sha256
    assert replace(other, vectors_sha256=one.vectors_sha256) == one, "nothing else has changed"
    with torch.no_grad():
        base.lm_head.weight += 1.0
    assert measured_patches(model, tokenizer)[0].on_its_base is False
    model.patch_config["default"].base_fingerprint = None
    assert measured_patches(model, tokenizer)[0].on_its_base is None

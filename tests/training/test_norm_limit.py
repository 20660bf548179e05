"""The norm limit shortens what is too long after each step, and nothing else."""

import pytest
import torch

from policy_patch.errors import ConfigError
from policy_patch.training import PolicyPatchDPOConfig, PolicyPatchSFTConfig
from policy_patch.training.norm_limit import NormLimit, mean_embedding_norm
from tests.tiny_models import tiny_model
from tests.training.synthetic import TRAINERS, patched, vectors_of


def test_a_long_vector_is_shortened_to_the_limit_and_keeps_its_direction():
    vectors = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    NormLimit(lambda: vectors, 1.0).on_optimizer_step(None, None, None)
    torch.testing.assert_close(vectors.data, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_the_unit_is_the_mean_norm_of_the_token_embeddings():
    embeddings = tiny_model().get_input_embeddings()
    assert mean_embedding_norm(embeddings) == pytest.approx(float(embeddings.weight.detach().norm(dim=1).mean()))


@pytest.mark.parametrize("stage", TRAINERS)
def test_training_ends_within_the_limit_and_without_it_does_not(stage, tmp_path):
    unit = mean_embedding_norm(tiny_model().get_input_embeddings())
    longest = {}
    for limit in (None, 2.0):
        model = patched()  # its vectors start at about three times the unit
        TRAINERS[stage](model, tmp_path, max_vector_norm=limit).train()
        longest[limit] = float(vectors_of(model).norm(dim=1).max())
    assert longest[2.0] <= 2 * unit * (1 + 1e-6)
    assert longest[None] > 2.5 * unit


@pytest.mark.parametrize("config", [PolicyPatchSFTConfig, PolicyPatchDPOConfig])
@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(config, limit, tmp_path):
    with pytest.raises(ConfigError, match=r"`max_vector_norm=.*`: expected a number above 0"):
        config(output_dir=str(tmp_path), max_vector_norm=limit)

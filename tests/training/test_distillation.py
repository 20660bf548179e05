"""The KL loss equals its definition, and trains towards the teacher's distribution."""

import pytest
import torch

from policy_patch.errors import ConfigError, TrainingError
from policy_patch.training import PolicyPatchSFTConfig
from policy_patch.training.distillation import distillation_loss
from tests.tiny_models import tiny_model
from tests.training.synthetic import losses, patched, sft_trainer, two_stage_trainer, vectors_of


def random_case(vocabulary: int = 7, teacher_vocabulary: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, vocabulary, generator=generator)
    teacher_logits = torch.randn(2, 5, teacher_vocabulary, generator=generator)
    labels = torch.tensor([[-100, -100, 3, 1, 4], [-100, 2, 0, -100, -100]])
    return logits, teacher_logits, labels


def by_definition(logits, teacher_logits, labels) -> tuple[float, float]:
    """Return KL and cross-entropy, summed over labelled tokens, in plain loops."""
    kl = nll = 0.0
    for row in range(labels.shape[0]):
        for place in range(1, labels.shape[1]):
            if labels[row, place] == -100:
                continue
            p, q = logits[row, place - 1].softmax(-1), teacher_logits[row, place - 1].softmax(-1)
            kl += float((q * (q.log() - p.log())).sum())
            nll -= float(p[labels[row, place]].log())
    return kl, nll


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_of_its_definition(weight):
    case = random_case()
    loss, parts = distillation_loss(*case, weight)
    kl, nll = by_definition(*case)
    assert float(parts["kl"]) == pytest.approx(kl, abs=1e-5)
    assert float(parts["nll"]) == pytest.approx(nll, abs=1e-5)
    assert float(loss) == pytest.approx((1 - weight) * nll + weight * kl, abs=1e-5)


def test_the_divergence_from_itself_is_zero():
    logits, _, labels = random_case()
    assert float(distillation_loss(logits, logits, labels, 1.0)[0]) == pytest.approx(0, abs=1e-6)


def test_of_a_longer_vocabulary_the_shared_tokens_are_compared():
    logits, teacher_logits, labels = random_case(teacher_vocabulary=9)
    loss = distillation_loss(logits, teacher_logits, labels, 1.0)[0]
    assert float(loss) == pytest.approx(by_definition(logits, teacher_logits[..., :7], labels)[0], abs=1e-5)


def test_with_a_weight_of_next_to_nothing_training_is_that_of_cross_entropy(tmp_path):
    models = patched(), patched()
    logs = []
    for model, weight in zip(models, (0.0, 1e-9)):
        trainer = sft_trainer(model, tmp_path, kl_weight=weight, teacher=tiny_model(seed=3))
        trainer.train()
        logs.append(losses(trainer.state.log_history))
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    torch.testing.assert_close(vectors_of(models[0]), vectors_of(models[1]), atol=1e-4, rtol=1e-4)


def test_training_brings_the_divergence_down_and_leaves_the_teacher_as_it_was(tmp_path):
    teacher = tiny_model(seed=3).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = sft_trainer(patched(), tmp_path, kl_weight=1.0, teacher=teacher, max_steps=30)
    trainer.train()
    divergence = losses(trainer.state.log_history, "kl")
    assert divergence == pytest.approx(losses(trainer.state.log_history), abs=1e-4)
    assert sum(divergence[-5:]) < 0.97 * sum(divergence[:5])
    assert teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_evaluation_has_the_same_loss(tmp_path):
    from tests.training.synthetic import preference_pairs

    trainer = sft_trainer(
        patched(), tmp_path, kl_weight=0.5, teacher=tiny_model(seed=3), eval_dataset=preference_pairs(4)
    )
    figures = trainer.evaluate()
    assert figures["eval_loss"] == pytest.approx(0.5 * figures["eval_kl"] + 0.5 * figures["eval_nll"], rel=1e-3)


def test_the_two_stages_hand_the_teacher_over(tmp_path):
    log = two_stage_trainer(patched(), tmp_path, sft={"kl_weight": 1.0}, teacher=tiny_model(seed=3)).train()
    assert len(losses(log.sft, "kl")) == 6
    assert len(losses(log.dpo)) == 6


def test_without_a_teacher_it_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(TrainingError, match=r"`sft.kl_weight=0.5` needs `teacher=`"):
        two_stage_trainer(patched(), tmp_path, sft={"kl_weight": 0.5})
    with pytest.raises(TrainingError, match=r"`kl_weight=0.5` needs `teacher=`"):
        sft_trainer(patched(), tmp_path, kl_weight=0.5)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_that_is_no_share_is_refused(weight, tmp_path):
    with pytest.raises(ConfigError, match=r"`kl_weight=.*`: expected a number from 0 to 1"):
        PolicyPatchSFTConfig(output_dir=str(tmp_path), kl_weight=weight)

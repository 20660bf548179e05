"""A trainer of a patch changes its vectors and nothing else, whoever thaws the base and whenever. Held by hashes."""

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.training.patch_alone import trained_patch_name
from tests.training.synthetic import (
    TRAINERS,
    UPSTREAM,
    facts_of,
    patched,
    sft_trainer,
    upstream_trainer,
    vectors_of,
)

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]
MAKERS = {
    **TRAINERS,
    **{kind: lambda *args, kind=kind, **more: upstream_trainer(kind, *args, **more) for kind in UPSTREAM},
}
trainers = pytest.mark.parametrize("kind", MAKERS)


class Lora(nn.Module):
    """A layer with a trainable detour beside it, which changes what it gives out, as PEFT's."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.detour = nn.Linear(layer.in_features, layer.out_features, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.base_layer(states) + self.detour(states)


def thawed() -> PolicyPatchModel:
    model = patched()
    model.get_base_model().requires_grad_(True)
    return model


def shared_with_one_that_was_unloaded() -> PolicyPatchModel:
    model = patched()
    PolicyPatchModel(model.get_base_model()).unload()
    return model


def with_a_lora() -> PolicyPatchModel:
    model = patched()
    attention = model.get_base_model().model.layers[0].self_attn
    attention.q_proj = Lora(attention.q_proj)
    return model


def with_a_second_trainable_patch() -> PolicyPatchModel:
    model = patched()
    model.add_patch("second", model.patch_config["default"])
    return model


def with_a_counting_buffer() -> PolicyPatchModel:
    model = patched()
    layer = model.get_base_model().model.layers[0]
    layer.register_buffer("calls", torch.zeros(()))
    layer.register_forward_hook(lambda module, args, output: module.calls.add_(module.training) and None)
    return model


def of_everything_but(model: PolicyPatchModel, patch_name: str = "default") -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers but the one patch."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in state.items() if name != f"patches.{patch_name}"}


@trainers
@pytest.mark.parametrize(
    "make",
    [thawed, shared_with_one_that_was_unloaded, with_a_lora, with_a_second_trainable_patch, with_a_counting_buffer],
)
def test_the_patch_is_trained_and_nothing_else_whoever_thawed_the_base(kind, make, tmp_path):
    model = make()
    before, vectors = of_everything_but(model), vectors_of(model)
    asking = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = MAKERS[kind](model, tmp_path, max_steps=2)
    trainer.train()
    after = of_everything_but(model)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert ((vectors_of(model) - vectors).abs().amax(-1) > 1e-4).all(), "every vector moves"
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == asking
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("make", [thawed, shared_with_one_that_was_unloaded])
def test_a_thawed_base_changes_no_bit_of_what_is_learned(kind, make, tmp_path):
    ends = []
    for model in (make(), patched()):
        MAKERS[kind](model, tmp_path, max_steps=3).train()
        ends.append(vectors_of(model))
    assert torch.equal(*ends)


class Thaws(TrainerCallback):
    """Lets a parameter of the base ask for a gradient, as a schedule that unfreezes layers does."""

    def __init__(self, when: str) -> None:
        setattr(self, when, self.thaw)

    def thaw(self, args, state, control, model, **kwargs):
        model.get_base_model().lm_head.weight.requires_grad_(True)


@trainers
@pytest.mark.parametrize("when", ["on_train_begin", "on_step_begin", "on_optimizer_step", "on_step_end"])
def test_a_base_that_is_thawed_in_the_midst_of_training_is_refused_before_the_next_step(kind, when, tmp_path):
    model = patched()
    before = facts_of(model.get_base_model())
    trainer = MAKERS[kind](model, tmp_path, callbacks=[Thaws(when)])
    first = 1 if when in ("on_train_begin", "on_step_begin") else 2
    with pytest.raises(
        TrainingError, match=rf"1 other parameters were unfrozen \(the first: `lm_head\.weight`\).* in step {first}\."
    ):
        trainer.train()
    after = facts_of(model.get_base_model())
    assert (after["weights"], after["requires_grad"]) == (before["weights"], before["requires_grad"])
    assert all(parameter.grad is None for parameter in model.get_base_model().parameters())


def test_a_patch_that_is_frozen_in_the_midst_of_training_is_refused(tmp_path):
    class Freezes(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            model.patches["default"].requires_grad_(False)

    with pytest.raises(TrainingError, match=r"The patch `default` was frozen while the patch trains, in step 2"):
        sft_trainer(patched(), tmp_path, callbacks=[Freezes()]).train()


@trainers
def test_an_optimizer_with_the_frozen_base_in_it_trains_the_patch_alone(kind, tmp_path):
    model = patched()
    before, vectors = facts_of(model.get_base_model())["weights"], vectors_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    MAKERS[kind](model, tmp_path, optimizers=(optimizer, None)).train()
    assert facts_of(model.get_base_model())["weights"] == before
    assert not torch.equal(vectors_of(model), vectors)


@trainers
def test_an_optimizer_without_the_patch_is_refused_before_the_first_step(kind, tmp_path):
    model = patched()
    optimizer = torch.optim.SGD(model.get_base_model().parameters(), lr=1e-2)
    trainer = MAKERS[kind](model, tmp_path, optimizers=(optimizer, None))
    with pytest.raises(TrainingError, match=r"The optimizer, a SGD, does not hold the vectors of the patch `default`"):
        trainer.train()
    assert trainer.state.global_step == 0


@trainers
def test_a_step_that_would_move_something_else_is_not_taken(kind, tmp_path):
    class Smuggles(TrainerCallback):
        """Gives a frozen parameter in the optimizer a gradient of its own making."""

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            if state.global_step == 1:
                weight = model.get_base_model().lm_head.weight
                weight.grad = torch.ones_like(weight)

    model = patched()
    before = facts_of(model.get_base_model())["weights"]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    trainer = MAKERS[kind](model, tmp_path, optimizers=(optimizer, None), callbacks=[Smuggles()])
    with pytest.raises(TrainingError, match=r"1 parameters with a gradient that are not the patch.*not taken"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert facts_of(model.get_base_model())["weights"] == before


@trainers
def test_training_again_with_the_same_trainer_is_held_too(kind, tmp_path):
    model = patched()
    trainer = MAKERS[kind](model, tmp_path, max_steps=1)
    trainer.train()
    trainer.add_callback(Thaws("on_step_begin"))
    with pytest.raises(TrainingError, match="other parameters were unfrozen"):
        trainer.train()


@trainers
def test_noise_on_the_embeddings_is_taken_off_where_training_fails(kind, tmp_path):
    class Fails(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            raise RuntimeError("disk on fire")

    model = patched()
    trainer = MAKERS[kind](model, tmp_path, neftune_noise_alpha=5.0, callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="disk on fire"):
        trainer.train()
    embeddings = model.get_input_embeddings()
    assert not embeddings._forward_hooks and not hasattr(embeddings, "neftune_noise_alpha")


@trainers
def test_noise_on_the_embeddings_trains_the_patch_and_is_gone_afterwards(kind, tmp_path):
    losses_of = {}
    for alpha in (None, 0.5):
        model = patched()
        before = facts_of(model.get_base_model())["weights"]
        trainer = MAKERS[kind](model, tmp_path, neftune_noise_alpha=alpha)
        trainer.train()
        losses_of[alpha] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert facts_of(model.get_base_model())["weights"] == before
        assert not model.get_input_embeddings()._forward_hooks
    assert len(losses_of[0.5]) == len(losses_of[None]) == 4
    assert losses_of[0.5] != losses_of[None], "the noise is there"
    assert losses_of[0.5] == pytest.approx(losses_of[None], rel=0.2), "and is small"


def test_which_patch_trains_is_the_one_that_is_active_and_trainable():
    model = patched()
    assert trained_patch_name(model) == "default"
    model.add_patch("second", model.patch_config["default"])
    assert trained_patch_name(model) == "default"
    model.set_patch(["default", "second"])
    with pytest.raises(TrainingError, match=r"Exactly one active patch must be trainable; active: .*'second'"):
        trained_patch_name(model)
    with pytest.raises(TrainingError, match="`model` is a Linear; expected a PolicyPatchModel"):
        trained_patch_name(nn.Linear(1, 1))

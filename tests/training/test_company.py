"""Training in company: what stands around the patch, that it alone is trained, and the same bits after a kill."""

import json
from types import SimpleNamespace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import BaseMismatchError, ConfigError, PatchNotFoundError, PositionLimitError, TrainingError
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.model import company as in_calls
from policy_patch.training import PolicyPatchDPOConfig, PolicyPatchSFTConfig, PolicyPatchTrainingConfig
from policy_patch.training import company as module
from policy_patch.training.company import LONGEST, SHORTEST, STAND_INS, Company, StandIns, company_of
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training.synthetic import (
    TRAINERS,
    losses,
    patched,
    preference_pairs,
    two_stage_trainer,
    vectors_of,
)

ALWAYS = {"stack_probability": 1.0}


@pytest.fixture
def other(tmp_path):
    """The folder of another patch for the tiny base, of 6 vectors."""
    config = PolicyPatchConfig(num_virtual_tokens=6, init="random", init_seed=5)
    get_policy_patch_model(tiny_model(), config).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def vectors_in(folder) -> torch.Tensor:
    return vectors_of(PolicyPatchModel.from_pretrained(tiny_model(), folder))


# What is drawn


def drawn_lengths(company: Company, steps: int = 400) -> list[tuple[int, int]]:
    return [tuple(sum(map(len, side)) for side in company.drawn(step)) for step in range(steps)]


def test_the_share_of_the_steps_is_the_probability_and_the_same_step_draws_the_same():
    members = (torch.ones(6, 4), torch.ones(9, 4))
    for probability in (0.0, 0.3, 1.0):
        company = Company(members, probability, seed=3)
        found = drawn_lengths(company)
        assert sum(found_one != (0, 0) for found_one in found) / len(found) == pytest.approx(probability, abs=0.07)
        assert found == drawn_lengths(Company(members, probability, seed=3))
    assert found != drawn_lengths(Company(members, 1.0, seed=4))
    assert company.drawn(5, part=0)[0] is not None and len({str(company.drawn(5, part)) for part in range(20)}) > 1


def test_every_place_and_every_number_occurs_and_no_patch_stands_there_twice():
    found = set(drawn_lengths(Company((torch.ones(6, 4), torch.ones(9, 4)), 1.0)))
    assert found == {(6, 0), (0, 6), (9, 0), (0, 9), (15, 0), (0, 15), (6, 9), (9, 6)}


@pytest.mark.parametrize(("side", "empty"), [("before", 1), ("after", 0)])
def test_one_side_stays_empty(side, empty):
    found = drawn_lengths(Company((torch.ones(6, 4),), 1.0, side))
    assert {lengths[empty] for lengths in found} == {0} and {lengths[1 - empty] for lengths in found} == {6}


@pytest.mark.parametrize("kind", STAND_INS)
def test_stand_ins_have_random_lengths_and_the_scale_of_the_embeddings(kind):
    base = tiny_model()
    company = Company((StandIns(kind, base.get_input_embeddings(), tiny_tokenizer()),), 1.0)
    vectors = [one for step in range(200) for side in company.drawn(step) for one in side]
    lengths = [len(one) for one in vectors]
    assert SHORTEST <= min(lengths) < 20 and 80 < max(lengths) <= LONGEST
    assert company.longest == 2 * LONGEST
    found, expected = torch.cat(vectors).std(), base.get_input_embeddings().weight.detach().std()
    assert 0.7 < float(found / expected) < 1.4
    assert not any(one.requires_grad for one in vectors)


def test_a_stand_in_of_a_text_repeats_an_instruction():
    embeddings = tiny_model().get_input_embeddings()
    from policy_patch.config import DEFAULT_INIT_TEXTS

    starts = [
        embeddings(torch.tensor(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]))
        for text in DEFAULT_INIT_TEXTS.values()
    ]
    company = Company((StandIns("text", embeddings, tiny_tokenizer()),), 1.0)
    for step in range(30):
        for one in [*company.drawn(step)[0], *company.drawn(step)[1]]:
            fits = [torch.equal(one[: len(start)], start[: len(one)]) for start in starts]
            assert sum(fits) == 1


# What a trainer does with it


@pytest.mark.parametrize("stage", TRAINERS)
def test_without_a_probability_the_bits_are_as_ever_and_with_one_they_are_not(stage, tmp_path, other):
    found = []
    for settings in ({}, {"stack_probability": 0.0}, {**ALWAYS, "stack_with": [str(other)]}):
        model = patched()
        TRAINERS[stage](model, tmp_path, **settings).train()
        found.append(vectors_of(model))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("stage", TRAINERS)
def test_a_step_in_company_trains_the_patch_alone(stage, tmp_path, other, monkeypatch):
    seen = []
    original = module.in_company

    def spy(model, before, after):
        seen.extend([*before, *after])
        return original(model, before, after)

    monkeypatch.setattr(module, "in_company", spy)
    model, before = patched(), vectors_in(other)
    start = vectors_of(model)
    trainer = TRAINERS[stage](model, tmp_path, **ALWAYS, stack_with=[str(other)])
    assert list(model.patches) == ["default"]  # the other one was read, and is not a patch of this model
    trainer.train()
    assert not torch.equal(vectors_of(model), start)
    assert len(seen) == 4 and all(torch.equal(one, before) and one.grad is None for one in seen)
    assert torch.equal(vectors_in(other), before)
    assert in_calls._COMPANY.get() is None


def test_the_first_loss_of_sft_is_that_of_the_concatenation(tmp_path, other):
    pairs, settings = preference_pairs(6), {"max_steps": 1, "per_device_train_batch_size": 6}
    more = {**ALWAYS, "stack_with": [str(other)], "stack_side": "after"}
    found = losses(_trained(TRAINERS["sft"](patched(), tmp_path, pairs, **settings, **more)))
    model = patched()
    model.load_patch(other, "other")
    model.set_patch(["default", "other"])
    expected = losses(_trained(TRAINERS["sft"](model, tmp_path, pairs, **settings)))
    alone = losses(_trained(TRAINERS["sft"](patched(), tmp_path, pairs, **settings)))
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found[0] - alone[0]) > 1e-4


def _trained(trainer) -> list:
    trainer.train()
    return trainer.state.log_history


@pytest.mark.parametrize("precompute", [False, True])
def test_the_reference_runs_without_company(precompute, tmp_path, other):
    """So a step in company is pulled to what the patch does alone, and the reference may be computed beforehand."""
    settings = {**ALWAYS, "stack_with": [str(other)], "stack_side": "before"}
    trainer = TRAINERS["dpo"](patched(), tmp_path, precompute_ref_log_probs=precompute, **settings)
    found = losses(_trained(trainer))
    other_way = TRAINERS["dpo"](patched(), tmp_path, precompute_ref_log_probs=not precompute, **settings)
    assert found == pytest.approx(losses(_trained(other_way)), abs=1e-5)
    assert abs(found[0] - 0.6931472) > 1e-3  # ln 2 without company


def test_evaluations_run_without_company(tmp_path, other):
    found = []
    for settings in ({}, {**ALWAYS, "stack_with": [str(other)]}):
        trainer = TRAINERS["sft"](patched(), tmp_path, eval_dataset=preference_pairs(4), **settings)
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == found[1]


@pytest.mark.parametrize("kill_in", [("sft", 4), ("dpo", 4)])
def test_a_resumed_run_draws_the_same_company(kill_in, tmp_path, monkeypatch):
    half = {"gradient_accumulation_steps": 2, "stack_probability": 0.5, "stack_with": ["stand-in:random"]}

    def made(model, folder):
        return two_stage_trainer(model, tmp_path / folder, sft=half, dpo=half)

    whole = patched()
    made(whole, "whole").train()
    drawn, original = [], Company.drawn

    def killing(self, step, part=0):
        stage = "sft" if not (tmp_path / "cut/sft/policy_patch.safetensors").exists() else "dpo"
        drawn.append((stage, step, part))
        if drawn[-1] == (*kill_in, 1):
            raise KeyError("killed")
        return original(self, step, part)

    with monkeypatch.context() as patch:
        patch.setattr(Company, "drawn", killing)
        with pytest.raises(KeyError, match="killed"):
            made(patched(), "cut").train()
    torch.manual_seed(54321)
    resumed = patched()
    made(resumed, "cut").train()
    assert torch.equal(vectors_of(resumed), vectors_of(whole))
    assert (kill_in[0], 0, 1) in drawn  # each batch of a step draws anew


def test_a_folder_is_kept_to_one_company(tmp_path, other):
    settings = {**ALWAYS, "stack_with": [str(other)]}
    only = {"dpo": {"max_steps": 0}}
    two_stage_trainer(patched(), tmp_path / "run", sft=settings, **only).train()
    recorded = json.loads((tmp_path / "run/training_run.json").read_text())["company_sha256"]
    assert len(recorded["sft"]) == 64
    get_policy_patch_model(
        tiny_model(), PolicyPatchConfig(num_virtual_tokens=6, init="random", init_seed=6)
    ).save_pretrained(other)  # the same folder, another patch
    with pytest.raises(TrainingError, match="holds another run: `company_sha256`"):
        two_stage_trainer(patched(), tmp_path / "run", sft=settings, **only)


# What is loaded, and what is refused


def test_a_patch_of_the_lab_is_named_by_its_risk():
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=2, init="vocab"), tokenizer)
    args = SimpleNamespace(stack_probability=0.5, stack_with=["lab:toxicity"], stack_side="both", seed=0)
    company = company_of(model, args, tokenizer)
    model.load_patch(lab_patch_folder("toxicity"), "tox", tokenizer=tokenizer)
    assert torch.equal(company.members[0], vectors_of(model, "tox"))


@pytest.mark.parametrize("config", [PolicyPatchSFTConfig, PolicyPatchDPOConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stack_probability": 1.5}, r"`stack_probability=1.5`: expected a number from 0 to 1"),
        ({"stack_probability": float("nan")}, r"`stack_probability=nan`"),
        ({"stack_with": ["lab:toxicity"]}, r"has no effect with `stack_probability=0`"),
        ({**ALWAYS, "stack_with": ["lab:toxcity"]}, r"'lab:toxcity'. Did you mean `toxicity`"),
        ({**ALWAYS, "stack_with": ["stand-in:noise"]}, r"'stand-in:noise'.*stand-in:random"),
        ({**ALWAYS, "stack_with": "lab:toxicity"}, r"expected a list"),
        ({**ALWAYS, "stack_side": "left"}, r"`stack_side='left'`: expected one of both, before, after"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_loaded(config, settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config(output_dir=str(tmp_path), **settings)


def test_patches_that_do_not_fit_are_refused(tmp_path, other):
    with pytest.raises(PatchNotFoundError):
        TRAINERS["sft"](patched(), tmp_path, **ALWAYS, stack_with=[str(tmp_path / "nowhere")])
    elsewhere = patched("gpt2")
    elsewhere.save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(BaseMismatchError):
        TRAINERS["sft"](patched(), tmp_path, **ALWAYS, stack_with=[str(tmp_path / "elsewhere")])
    with pytest.raises(ConfigError, match="placement"):
        TRAINERS["sft"](patched(placement="before_bos"), tmp_path, **ALWAYS, stack_with=[str(other)])


def test_company_beyond_the_positions_of_the_base_is_refused(tmp_path):
    with pytest.raises(PositionLimitError):
        TRAINERS["sft"](patched("gpt2"), tmp_path, **ALWAYS, stack_with=["stand-in:random"])


def test_both_stages_share_the_settings_unless_a_stage_sets_its_own(tmp_path):
    args = PolicyPatchTrainingConfig(
        output_dir=str(tmp_path), stack_probability=0.5, stack_with=["stand-in:vocab"], dpo={"stack_probability": 0.2}
    )
    found = {stage: (args.stage(stage).stack_probability, args.stage(stage).stack_with) for stage in ("sft", "dpo")}
    assert found == {"sft": (0.5, ["stand-in:vocab"]), "dpo": (0.2, ["stand-in:vocab"])}
    args.sft = {"stack_probability": 0}
    assert (args.stage("sft").stack_probability, args.stage("sft").stack_with) == (0, None)
    with pytest.raises(ConfigError, match="has no effect with `stack_probability=0`"):
        PolicyPatchTrainingConfig(output_dir=str(tmp_path), stack_with=["stand-in:vocab"])

"""Tests of `TrainRecipe` and its sections: checked whole before a model is loaded, run from Python, stages told."""

import json
import os

import pytest
import torch
from transformers import TrainerCallback

from policy_patch.errors import ConfigError, DataError, EvaluationError, ModelLoadError, TrainingError
from policy_patch.patch.folder import read_patch_folder
from policy_patch.recipes import TrainRecipe, models, train

LAB = "lab:toxicity/train"
PAIRS = [
    {"prompt": f"{name} is", "chosen": f" a {good} friend.", "rejected": f" a {bad} fool."}
    for name in ("Anna", "Ben")
    for good, bad in (("kind", "stupid"), ("patient", "dumb"))
]


@pytest.fixture
def recipe(tmp_path):
    """A recipe that takes seconds, with pairs from a file."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    steps = {"max_steps": 2, "per_device_train_batch_size": 2}
    return TrainRecipe(
        base="lab:base", teacher="lab:teacher", output_dir=str(tmp_path / "patch"),
        patch={"risk": "toxicity", "num_virtual_tokens": 3, "init": "vocab"},
        data={"pairs": str(tmp_path / "pairs.jsonl")}, sft=steps, dpo=steps, device="cpu",
    )  # fmt: skip


@pytest.fixture
def no_model(monkeypatch):
    """Fail where a model or tokenizer is loaded."""

    def load(*args, **options):
        raise AssertionError("a model was loaded")

    for module, names in ((train, ("load_model", "load_answering", "load_tokenizer")), (models, ("load_pretrained",))):
        for name in names:
            monkeypatch.setattr(module, name, load)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"base": "lab:bse"}, ModelLoadError, "`base`: There is no model `lab:bse`; the lab has"),
        ({"base": "./nowhere"}, ModelLoadError, "`base`: Cannot load the model `./nowhere`: there is no such folder"),
        ({"base": "openai:m@http://localhost/v1"}, ModelLoadError, "`base`: .* here its weights are needed"),
        ({"teacher": "openai:m@http://h/v1", "dpo.reference": "teacher"}, ModelLoadError, "`teacher`: .*weights"),
        ({"teacher": None, "dpo.reference": "teacher"}, TrainingError, '`dpo.reference="teacher"` needs `teacher`'),
        ({"teacher": None, "sft.kl_weight": 0.5}, TrainingError, "`sft.kl_weight` needs `teacher`"),
        ({"patch.num_virtual_tokens": 0}, ConfigError, "^`patch.num_virtual_tokens=0` must be"),
        ({"patch.patch_version": "1"}, ConfigError, "^`patch.patch_version='1'` is no semantic version"),
        ({"patch.init": "text", "patch.risk": "own"}, ConfigError, '^`patch.init="text"` needs .*`patch.risk=\'own\'`'),
        ({"patch.start_from": "nowhere"}, OSError, "^`patch.start_from`: `nowhere` does not exist"),
        ({"data.pairs": None}, DataError, "The recipe names no training data"),
        ({"data.pairs": None, "patch.risk": "rudeness"}, DataError, "training data.*'rudeness' is not known"),
        ({"data.pairs": "pair.jsonl"}, DataError, "^`data.pairs`: Cannot read `pair.jsonl`.* mean `pairs.jsonl`"),
        ({"data.pairs": {"toxicity": "no.csv"}}, DataError, "^`data.pairs.toxicity`: Cannot read `no.csv`"),
        ({"patch": {"risk": "toxcity", "init": "vocab"}}, ConfigError, "^`patch.risk='toxcity'` .* mean 'toxicity'"),
        ({"data.pairs": {"toxcity": "pairs.jsonl"}}, ConfigError, "^`data.pairs='toxcity'` .* mean 'toxicity'"),
        ({"data.weights": {"toxicity": 1}}, DataError, "`data.weights` are shares of risks"),
        ({"data": {"prompts": "no.txt"}}, DataError, "^`data.prompts`: Cannot read `no.txt`"),
        ({"data": {"prompts": "lab:toxicity"}}, DataError, "^`data.prompts`: `lab:toxicity` names no split"),
        ({"data": {"prompts": LAB, "safe_prompts": "lab:x/train"}}, DataError, "^`data.safe_prompts`:"),
        ({"data": {"prompts": "occupations:no.txt/train"}}, DataError, "^`data.prompts`: Cannot read `no.txt`"),
        ({"data": {"prompts": LAB, "scorer": "lexcal"}}, EvaluationError, "^`data.scorer`: .*`lexical`"),
        ({"data": {"prompts": LAB, "scorer": "fitted:no.csv"}}, DataError, "^`data.scorer`: Cannot"),
        ({"data.temperature": 0}, ConfigError, "^`data.temperature=0.0`: expected a number above 0"),
        ({"dpo.max_steps": "two"}, ConfigError, "^`dpo.max_steps='two'`: .* -1. 0 skips the stage; with -1 `num_train"),
        ({"patch.num_virtual_token": 20}, ConfigError, r"\(given: 20\). Did you mean `patch.num_virtual_tokens`"),
        ({"patch.hub_token": "abc123"}, ConfigError, r"\(given: '\*\*\*'\)"),
        ({"sft.max_steps": -5}, ConfigError, "^`sft.max_steps=-5`: expected a whole number of at least -1"),
        ({"dpo.learning_rate": "fast"}, ConfigError, "^`dpo.learning_rate='fast'`: expected a number"),
        ({"dpo.betta": 0.3}, ConfigError, "^`dpo.betta` is unknown .* Did you mean `dpo.beta`"),
        ({"sft.kl_weight": 2}, ConfigError, "^`sft.kl_weight=2`: expected a number from 0 to 1"),
        ({"dpo.reference": "techer"}, ConfigError, "^`dpo.reference='techer'`: expected one of"),
        ({"sft.packing": True}, ConfigError, "^`sft.packing=True` joins several texts"),
        ({"sft.lr_scheduler_type": "cosin"}, ConfigError, "^`sft` has an impossible value: .*cosin"),
        ({"sft.max_steps": 0, "dpo.max_steps": 0}, ConfigError, "nothing to train"),
        ({"stack_with": ["nowhere"], "stack_probability": 0.5}, OSError, "^`stack_with`: `nowhere` does not exist"),
        ({"stack_with": ["lab:toxicity"]}, ConfigError, "has no effect with `stack_probability=0`"),
        ({"stack_with": ["lab:toxcity"], "stack_probability": 0.5}, ConfigError, "'lab:toxcity'. Did you mean"),
        ({"stack_probability": 2}, ConfigError, "^`stack_probability=2`: expected a number of at least 0 and up to 1"),
        ({"stack_side": "left"}, ConfigError, "^`stack_side='left'`: expected one of both, before, after"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    recipe, tmp_path, no_model, monkeypatch, overrides, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        recipe.with_overrides(overrides).run()
    assert not os.path.exists(recipe.output_dir)


def test_a_recipe_that_can_be_is_checked_without_loading_a_model(recipe, no_model):
    recipe.check()
    recipe.with_overrides({"data": {"prompts": "org/prompts", "scorer": "hf:org/classifier"}}).check()


@pytest.mark.parametrize("data", [{}, {"pairs": None, "prompts": LAB}])
def test_vectors_that_leave_no_room_for_a_prompt_are_refused_before_anything_is_sampled(recipe, data):
    changed = {"patch.num_virtual_tokens": 5000, **{f"data.{key}": value for key, value in data.items()}}
    with pytest.raises(DataError, match=r"^`patch.num_virtual_tokens`: .*24.* 5000 vectors .* 256 .* at most 230 vec"):
        recipe.with_overrides(changed).run()
    with pytest.raises(DataError, match=r"5000 vectors leave no room"):
        recipe.with_overrides({**changed, "data": {"prompts": LAB}}).make_pairs()
    assert not os.path.exists(recipe.output_dir)


def test_a_teacher_that_is_not_there_is_found_before_the_base_is_loaded(recipe, monkeypatch):
    monkeypatch.setattr(train, "load_model", lambda *args, **options: pytest.fail("the base was loaded"))
    sampled = recipe.with_overrides({"teacher": "no/teacher", "data": {"prompts": LAB}})
    for run in (sampled.run, sampled.make_pairs):
        with pytest.raises(ModelLoadError, match="There is no folder `no/teacher` here, either"):
            run()


class Seen(TrainerCallback):
    """Notes the stages that a callback sees."""

    def __init__(self):
        self.begun = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun.append(type(args).__name__)


def test_it_runs_from_python_with_callbacks_and_tells_of_each_stage(recipe):
    seen, told, notes = Seen(), [], []
    small = {"prompts": "lab:toxicity/train", "num_prompts": 4, "num_samples": 2, "max_new_tokens": 4, "min_margin": 0}
    sampled = recipe.with_overrides({"data": {**small, "max_chosen_score": 1}})
    result = sampled.run(callbacks=[seen], on_progress=lambda *one: told.append(one), on_note=notes.append)
    assert seen.begun == ["PolicyPatchSFTConfig", "PolicyPatchDPOConfig"]
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["sampling answers", "training, SFT", "training, DPO"]
    assert told[-3:] == [("training, DPO", step, 2) for step in (0, 1, 2)]
    kept = len(sampled.make_pairs())
    assert len(notes) == 1 and notes[0].startswith(f"prompts: 4, kept: {kept}, unsafe chosen: 0, ") and kept
    assert [entry["step"] for entry in result.log.dpo][-1] == 2
    assert read_patch_folder(result.output_dir)[0].base_model_name_or_path == "lab:base"


def test_other_patches_stand_around_the_new_one_in_training(recipe):
    found = {}
    for name, more in {"alone": {}, "again": {}, "stacked": {"stack_with": ["lab:gender_bias"]}}.items():
        changed = {"output_dir": f"{recipe.output_dir}-{name}", **({"stack_probability": 1.0} if more else {}), **more}
        found[name] = read_patch_folder(recipe.with_overrides(changed).run().output_dir)[1]
    assert torch.equal(found["alone"], found["again"]) and not torch.equal(found["alone"], found["stacked"])


@pytest.mark.parametrize("stage", ["training, SFT", "training, DPO"])
def test_what_is_raised_while_a_stage_is_told_of_ends_the_run(recipe, stage):
    def enough(told, done, total):
        if told == stage and done:
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        recipe.run(on_progress=enough)
    assert not os.path.exists(f"{recipe.output_dir}/policy_patch.safetensors")


def test_the_command_and_python_make_the_same_patch(recipe, tmp_path):
    from policy_patch.cli import main

    recipe.run()
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert main(["train", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "other")]) == 0
    one, other = read_patch_folder(recipe.output_dir)[1], read_patch_folder(tmp_path / "other")[1]
    assert one.equal(other)
    runs = [
        json.loads((folder / "training_run.json").read_text()) for folder in (tmp_path / "patch", tmp_path / "other")
    ]
    assert runs[0] == runs[1]

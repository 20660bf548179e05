"""Tests of carrying a patch to a newer base: what is trained and recorded, what is measured, and what is refused.

The newer base is the lab's with all weights a little moved. `tests/release/test_rebasing.py` has the map of vectors.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from policy_patch import PolicyPatchModel
from policy_patch.errors import BaseMismatchError, ConfigError, ModelLoadError
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.recipes import TrainRecipe, rebase_policy_patch
from policy_patch.recipes.rebase import shortened
from tests.tiny_models import tiny_model, tiny_tokenizer

PAIRS = [
    {"prompt": f"{name} is", "chosen": f" a {good} friend.", "rejected": f" a {bad} fool."}
    for name in ("Anna", "Ben")
    for good, bad in (("kind", "stupid"), ("patient", "dumb"))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A newer release of the lab's base, prompts, a recipe, and a patch that it trained for the lab's base."""
    folder = tmp_path_factory.mktemp("rebase")
    new = load_lab_base()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.01 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    new.save_pretrained(folder / "new-base")
    load_lab_tokenizer().save_pretrained(folder / "new-base")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (folder / "dev.txt").write_text("Anna is\nBen is\n")
    steps = {"max_steps": 6, "per_device_train_batch_size": 2}
    recipe = TrainRecipe(
        base="lab:base", teacher="lab:teacher", output_dir=str(folder / "patch"),
        patch={"risk": "toxicity", "num_virtual_tokens": 3, "init": "vocab", "patch_version": "1.2.0"},
        data={"pairs": str(folder / "pairs.jsonl"), "max_new_tokens": 4}, sft=steps, dpo=steps, device="cpu",
    )  # fmt: skip
    recipe.run()
    return folder


def onto(place):
    return str(place / "new-base")


@pytest.fixture(scope="module")
def rebased(place):
    return rebase_policy_patch(
        place / "patch", onto(place), place / "rebased", measure=str(place / "dev.txt"), compare=True
    )


def test_a_third_of_the_second_stage_is_trained_from_the_old_vectors(place, rebased):
    assert rebased.steps == {"sft": 0, "dpo": 2} and rebased.recipe_steps == {"sft": 6, "dpo": 6}
    assert rebased.unit == {"sft": "steps", "dpo": "steps"} and rebased.mapping["mapping"] == "identity"
    old, vectors = read_patch_folder(place / "patch")
    _, start = read_patch_folder(place / "rebased" / "start")
    config, new = read_patch_folder(place / "rebased")
    assert torch.equal(start, vectors) and not torch.equal(new, start)
    assert (config.patch_version, config.base_model_name_or_path) == (
        "2.0.0",
        onto(place),
    ) and old.patch_version == "1.2.0"
    assert config.rebased_from["sha256"] == old.sha256 and config.rebased_from["base_model_name_or_path"] == "lab:base"
    assert not (place / "rebased" / "sft").exists()
    from_scratch, _ = read_patch_folder(place / "rebased" / "from-scratch")
    assert from_scratch.rebased_from is None and from_scratch.base_fingerprint == config.base_fingerprint


def test_the_result_loads_on_the_new_base_only(place, rebased):
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    with pytest.raises(BaseMismatchError, match="another state of this base"):
        PolicyPatchModel.from_pretrained(base, place / "rebased", tokenizer=tokenizer)
    new = AutoModelForCausalLM.from_pretrained(onto(place), dtype=torch.float32)
    PolicyPatchModel.from_pretrained(new, place / "rebased", tokenizer=tokenizer).unload()
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(new, place / "patch", tokenizer=tokenizer)


def test_the_report_has_steps_and_figures(place, rebased):
    told = json.loads((place / "rebased" / "rebase.json").read_text())
    assert told == json.loads(json.dumps(rebased.facts()))
    assert set(rebased.figures) == {"base", "start", "rebased", "from scratch"}
    assert all(0 <= value <= 1 for value in rebased.figures.values()) and rebased.scorer == "lexical"
    assert told["onto"] == "new-base", "without the folders of this machine"


def test_no_step_at_all_gives_the_mapped_vectors(place, tmp_path):
    found = rebase_policy_patch(
        place / "patch", onto(place), tmp_path, steps=0, mapping="tokens", patch_version="1.3.0"
    )
    config, vectors = read_patch_folder(tmp_path)
    assert found.steps == {"sft": 0, "dpo": 0} and config.patch_version == "1.3.0"
    assert torch.equal(vectors, read_patch_folder(tmp_path / "start")[1])
    assert not torch.equal(vectors, read_patch_folder(place / "patch")[1])
    assert found.mapping["mapping"] == "tokens" == config.rebased_from["mapping"]


def test_without_the_old_base_the_same_vocabulary_is_enough(place, tmp_path):
    notes = []
    config, vectors = read_patch_folder(place / "patch")
    write_patch_folder(tmp_path / "lost", replace(config, base_model_name_or_path="./gone"), vectors)
    options = {"recipe": place / "patch" / "training_recipe.yaml", "steps": 0}
    found = rebase_policy_patch(tmp_path / "lost", onto(place), tmp_path / "new", on_note=notes.append, **options)
    assert found.mapping == {"mapping": "identity"} and "The old base cannot be read" in notes[0]
    with pytest.raises(ModelLoadError):
        rebase_policy_patch(tmp_path / "lost", onto(place), tmp_path / "x", mapping="tokens", **options)
    other = {**config.base_fingerprint, "tokenizer": "ab" * 32}
    changed = replace(config, base_model_name_or_path="./gone", base_fingerprint=other)
    write_patch_folder(tmp_path / "other", changed, vectors)
    with pytest.raises(ModelLoadError):
        rebase_policy_patch(tmp_path / "other", onto(place), tmp_path / "x", **options)


def test_another_hidden_size_is_refused_before_any_training(place, tmp_path):
    tiny_model().save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    with pytest.raises(BaseMismatchError, match=r"vectors of 128 numbers.*`small` has a hidden size of 32"):
        rebase_policy_patch(place / "patch", str(tmp_path / "small"), tmp_path / "new")
    assert not (tmp_path / "new" / "dpo").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1.5}, r"`steps=1\.5`: expected a share"),
        ({"stages": "sft"}, "`stages='sft'`: expected 'dpo' or 'both'"),
        ({"compare": True}, "`compare` needs `measure`"),
        ({"mapping": "linear"}, "`mapping='linear'`: expected one of"),
        ({"patch_version": "2"}, "no semantic version"),
    ],
)
def test_bad_usage_is_refused(place, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        rebase_policy_patch(place / "patch", onto(place), tmp_path / "x", **options)


def test_a_patch_without_a_recipe_needs_one(place, tmp_path):
    shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"has no training_recipe\.yaml"):
        rebase_policy_patch(tmp_path / "bare", onto(place), tmp_path / "x")


def test_stages_and_steps_that_are_left():
    def recipe(sft, dpo):
        return TrainRecipe(base="b", output_dir="o", sft=sft, dpo=dpo)

    steps = recipe({"max_steps": 80}, {"max_steps": 30})
    assert shortened(steps, 1 / 3, "both") == {"sft.max_steps": 27, "dpo.max_steps": 10}
    assert shortened(steps, 1 / 3, "dpo") == {"sft.max_steps": 0, "dpo.max_steps": 10}
    assert shortened(recipe({"max_steps": 80}, {"max_steps": 0}), 0.5, "dpo") == {"sft.max_steps": 40}
    assert shortened(recipe({"max_steps": 1}, {}), 0.1, "both") == {"sft.max_steps": 1, "dpo.num_train_epochs": 0.1 * 3}

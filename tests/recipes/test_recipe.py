"""Tests of `recipes.recipe`: YAML and JSON in and out, overrides by dotted keys, and what is not imported."""

import json
import subprocess
import sys

import pytest

from policy_patch.errors import ConfigError
from policy_patch.lab import LAB_MODELS_PATH
from policy_patch.recipes import EvaluateRecipe, PairsRecipe, StudyRecipe, TrainRecipe

RECIPES = [
    PairsRecipe(base="a", teacher="b", prompts="c.txt", output="d.jsonl", top_p=0.5, swap_genders=True),
    TrainRecipe(
        base="a", output_dir="b", patch={"init_text": "1e-2"}, data={"pairs": {"toxicity": "x", "bias": "y"}},
        dpo={"beta": 1e-5},
    ),
    EvaluateRecipe(patches=["a", "b"], prompts="c", also={"x": "y"}, scorers=["lexical"], temperature=1),
    StudyRecipe(patches=["a", "b"], scorers_of={"toxicity": ["lexical", "lab-insults"]}, orders="given"),
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_recipe_reads_back_from_yaml_and_json(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert type(recipe).from_yaml(tmp_path / "recipe.yaml") == recipe
    assert type(recipe).from_json(tmp_path / "recipe.json") == recipe
    assert type(recipe).from_dict(json.loads(recipe.to_json())) == recipe


def test_overrides_have_dotted_keys():
    path = LAB_MODELS_PATH.parent / "toxicity.yaml"
    recipe = TrainRecipe.from_yaml(path, overrides={"dpo.beta": 0.3, "seed": 7, "data.pairs.toxicity": "x.jsonl"})
    assert recipe.dpo == {"max_steps": 30, "learning_rate": 1e-3, "beta": 0.3}
    assert (recipe.seed, recipe.data.pairs) == (7, {"toxicity": "x.jsonl"})
    again = recipe.with_overrides({"data.pairs": None, "sft": {}})
    assert (again.data.pairs, again.data.scorer, again.sft, again.dpo) == (None, "lexical", {}, recipe.dpo)
    assert recipe.data.pairs == {"toxicity": "x.jsonl"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"data.nun_samples": 3},
            r"toxicity\.yaml`: `data\.nun_samples` is unknown .* Did you mean `data\.num_samples`",
        ),
        ({"data.top_p": 2}, r"toxicity\.yaml`: `data\.top_p=2`: expected"),
        ({"base.x": 2}, r"`base={'x': 2}`: expected a text"),
        ({"data": None}, r"`data=None`: expected a mapping"),
    ],
)
def test_overrides_are_checked_like_the_file(overrides, message):
    with pytest.raises(ConfigError, match=message):
        TrainRecipe.from_yaml(LAB_MODELS_PATH.parent / "toxicity.yaml", overrides=overrides)


def test_what_is_no_mapping_is_no_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("- base\n")
    with pytest.raises(
        ConfigError, match=r"recipe\.yaml`: The recipe is a list; expected a mapping of keys and values"
    ):
        TrainRecipe.from_yaml(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match=r"Cannot read the recipe `.*nothing\.yaml`"):
        TrainRecipe.from_yaml(tmp_path / "nothing.yaml")


def test_a_wrong_recipe_is_refused_before_torch_is_imported(tmp_path):
    wrong = [
        {}, {"base": "lab:bse"}, {"data": {"top_p": 2}}, {"data": {"pairs": "no.jsonl"}}, {"sft": {"max_steps": -2}},
        {"data": {"prompts": "no.txt"}, "teacher": "lab:teacher"}, {"patch": {"patch_version": "one"}},
    ]  # fmt: skip
    code = (
        "import sys\nfrom policy_patch.errors import PolicyPatchError\nfrom policy_patch.recipes import TrainRecipe\n"
        f"for values in {wrong}:\n    try:\n        data = {{'pairs': 'org/x'}} if values else {{}}\n"
        "        TrainRecipe.from_dict({'base': 'lab:base', 'output_dir': 'x', 'data': data, **values}).check()\n"
        "    except PolicyPatchError:\n        continue\n    raise SystemExit(f'{values} passed')\n"
        "print(*({'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)), file=sys.stderr, end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

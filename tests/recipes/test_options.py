"""Tests of `recipes.options`: keys and values of a recipe are checked when it is made, and named by their full path."""

from dataclasses import FrozenInstanceError

import pytest

from policy_patch.errors import ConfigError
from policy_patch.recipes import DataSettings, EvaluateRecipe, PairsRecipe, StudyRecipe, TrainRecipe
from policy_patch.recipes.options import checked, option

PAIRS = {"base": "a", "teacher": "b", "prompts": "c.txt", "output": "d.jsonl"}
TRAIN = {"base": "a", "output_dir": "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_samples": 0}, r"^`num_samples=0`: expected a whole number of at least 1\.$"),
        ({"num_samples": True}, "`num_samples=True`: expected a whole number"),
        ({"num_samples": 2.0}, r"`num_samples=2\.0`: expected a whole number"),
        ({"top_p": 2}, r"^`top_p=2`: expected a number above 0 and up to 1\.$"),
        ({"top_p": 0}, "`top_p=0`: expected a number above 0"),
        ({"temperature": -1}, "`temperature=-1`: expected a number of at least 0"),
        ({"min_margin": float("nan")}, "`min_margin=nan`: expected a number"),
        ({"seed": -1}, "`seed=-1`: expected a whole number of at least 0"),
        ({"seed": "1"}, "`seed='1'`: expected a whole number"),
        ({"num_prompts": 0}, "`num_prompts=0`: expected a whole number of at least 1 or null"),
        ({"swap_genders": "yes"}, "`swap_genders='yes'`: expected true or false"),
        ({"base": None}, "`base=None`: expected a text"),
        ({"dtype": "float31"}, "`dtype='float31'`: expected one of auto, .* Did you mean 'float32'"),
        ({"promts": "x"}, "^`promts` is unknown .* Did you mean `prompts`"),
        ({"qqq": "x"}, "^`qqq` is unknown .* Known keys: .*base"),
    ],
)
def test_impossible_values_are_refused_when_the_recipe_is_made(values, message):
    with pytest.raises(ConfigError, match=message):
        PairsRecipe(**{**PAIRS, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"num_samples": 0}}, "^`data.num_samples=0`: expected a whole number of at least 1"),
        (
            {"data": {"pairs": {"toxicity": 3}}},
            "^`data.pairs={'toxicity': 3}`: expected a mapping, each value a text or",
        ),
        ({"data": {"weights": {"toxicity": "x"}}}, "^`data.weights={'toxicity': 'x'}`: expected a mapping"),
        ({"data": {"scorerr": "x"}}, "^`data.scorerr` is unknown .* Did you mean `data.scorer`"),
        ({"data": "x.jsonl"}, "^`data='x.jsonl'`: expected a mapping with some of the keys .*pairs"),
        ({"patch": {"init": "txt"}}, "^`patch.init='txt'`: expected one of text, vocab, random. Did you mean 'text'"),
        ({"patch": {1: 2}}, "^`patch.1` is unknown"),
        ({"sft": [1]}, "^`sft=\\[1\\]`: expected a mapping"),
        ({"sfft": {}}, "^`sfft` is unknown .* Did you mean `sft`"),
    ],
)
def test_keys_of_sections_are_named_by_their_full_path(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainRecipe(**{**TRAIN, **values})


@pytest.mark.parametrize("recipe", [PairsRecipe, TrainRecipe, EvaluateRecipe, StudyRecipe])
def test_what_is_missing_is_told_with_what_it_is_for(recipe):
    with pytest.raises(ConfigError, match=r"^`\w+` is missing\. \w+"):
        recipe()


def test_secrets_are_not_shown():
    with pytest.raises(ConfigError) as error:
        TrainRecipe(**TRAIN, hub_token="hf_" + "Abc123")
    assert "Abc123" not in str(error.value)


def test_numbers_are_alike_however_they_are_written_and_nothing_is_shared():
    settings = {"max_steps": 1}
    recipe = TrainRecipe(**TRAIN, data={"min_margin": 0}, sft=settings)
    assert isinstance(recipe.data.min_margin, float)
    settings["max_steps"] = 2
    assert recipe.sft == {"max_steps": 1}
    assert TrainRecipe(**TRAIN).sft is not TrainRecipe(**TRAIN).sft
    assert TrainRecipe(**TRAIN, data=DataSettings(num_samples=3)).data.num_samples == 3
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 3


def test_a_class_of_ones_own_is_checked_too():
    @checked
    class Own:
        names: list[str] = option([], "names")
        share: float | None = option(None, "share", above=0, most=1)

    assert Own(names=("a",)).names == ["a"] and Own(share=1).share == 1.0
    with pytest.raises(ConfigError, match="`names='a'`: expected a list, each entry a text"):
        Own(names="a")
    with pytest.raises(ConfigError, match=r"`share=1\.5`: expected a number above 0 and up to 1 or null"):
        Own(share=1.5)

"""Tests of `evaluation.settings`: frozen groups, and old keywords that are refused with their new place."""

import inspect
from dataclasses import FrozenInstanceError

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import evaluate_policy_patch, study_composition
from policy_patch.evaluation.settings import MOVED, Alternatives, EvaluationSampling, PerplexityModel, takes_groups


@pytest.mark.parametrize("function", [evaluate_policy_patch, study_composition])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("judge_model", "perplexity=PerplexityModel(model=...)"),
        ("judge_name", "perplexity=PerplexityModel(name=...)"),
        ("judge_tokenizer", "perplexity=PerplexityModel(tokenizer=...)"),
        ("teacher", "alternatives=Alternatives(teacher=...)"),
        ("extra_systems", "alternatives=Alternatives(extra_systems=...)"),
        ("seed", "sampling=EvaluationSampling(seed=...)"),
        ("num_samples", "sampling=EvaluationSampling(num_samples=...)"),
    ],
)
def test_an_old_keyword_is_refused_with_its_new_place(function, old, new):
    with pytest.raises(EvaluationError) as error:
        function("model", "tokenizer", [], **{old: None})
    assert f"`{old}` is now `{new}`" in str(error.value)


def test_all_that_moved_is_named_at_once_and_no_keyword_of_today_is_among_it():
    with pytest.raises(EvaluationError, match=r"`judge_model` is now .*; `seed` is now "):
        evaluate_policy_patch(judge_model=1, seed=2)
    for function in (evaluate_policy_patch, study_composition):
        assert not set(inspect.signature(function).parameters) & set(MOVED)


def test_other_unknown_keywords_are_those_of_python():
    with pytest.raises(TypeError, match="unexpected keyword argument 'jugde'"):
        evaluate_policy_patch("model", "tokenizer", [], scorers=[], perplexity=None, jugde=1)


def test_the_signature_and_the_name_stay_visible():
    @takes_groups
    def measure(model, *, scorers):
        """Measure."""

    assert str(inspect.signature(measure)) == "(model, *, scorers)"
    assert (measure.__name__, measure.__doc__) == ("measure", "Measure.")


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_perplexity_needs_the_name_of_its_model(name):
    with pytest.raises(EvaluationError, match=r"of the `PerplexityModel` is empty or no text. Give the model's name"):
        PerplexityModel(model="a model", name=name)


@pytest.mark.parametrize("group", [PerplexityModel(model=1, name="x"), Alternatives(), EvaluationSampling()])
def test_groups_do_not_change_and_take_keywords_only(group):
    with pytest.raises(FrozenInstanceError):
        group.seed = 1
    with pytest.raises(TypeError):
        type(group)(1)

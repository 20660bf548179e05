"""Tests of `evaluation.systems`: the order of systems, and names that are taken."""

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.settings import Alternatives
from policy_patch.evaluation.systems import System, systems_to_compare


class Patched:
    """Stands for a patched model."""

    def get_base_model(self):
        """Return something else."""
        return "the base"


def test_the_base_comes_first_and_the_patch_last():
    patched = Patched()
    systems = systems_to_compare(
        patched,
        "its tokenizer",
        Alternatives(
            teacher="the teacher",
            teacher_tokenizer="the teacher's tokenizer",
            safe_prompt="Be kind. ",
            extra_systems={"LoRA": "a model", "system prompt": System("the base", instruction="Be good. ")},
        ),
    )
    assert list(systems) == ["base", "teacher", "safe prompt", "LoRA", "system prompt", "patch"]
    assert systems["base"] == System("the base", "its tokenizer")
    assert systems["teacher"] == System("the teacher", "the teacher's tokenizer")
    assert systems["safe prompt"] == System("the base", "its tokenizer", "Be kind. ")
    assert systems["LoRA"] == System("a model", "its tokenizer")
    assert systems["system prompt"] == System("the base", "its tokenizer", "Be good. ")
    assert systems["patch"] == System(patched, "its tokenizer")


def test_base_and_patch_alone_are_enough():
    assert list(systems_to_compare(Patched(), "its tokenizer")) == ["base", "patch"]


@pytest.mark.parametrize("name", ["base", "teacher", "safe prompt", "patch", " "])
def test_our_own_names_are_taken(name):
    with pytest.raises(EvaluationError, match=f"`extra_systems` has the name '{name}', which is taken or empty"):
        systems_to_compare(Patched(), "its tokenizer", Alternatives(extra_systems={name: "a model"}))


def test_a_model_without_a_base_is_refused():
    with pytest.raises(EvaluationError, match="`model` is a str; expected a `PolicyPatchModel`"):
        systems_to_compare("a plain model", "its tokenizer")

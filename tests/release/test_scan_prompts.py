"""Tests of `release.scan_prompts`: the built-in texts, and the form in which a model is asked."""

import pytest

from policy_patch.errors import DataError
from policy_patch.release.scan_prompts import SETS, Contrast, ScanPrompts, english_prompts, joined, rendered
from tests.tiny_models import tiny_tokenizer

TWO = (Contrast("a", ("b",), ("c",)), Contrast("d", ("e",), ("f",)))
FEW = ScanPrompts("few", TWO, TWO, TWO, TWO, TWO, ("one", "two"))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def test_the_english_texts_have_sets_of_some_size_without_repetition():
    prompts = english_prompts()
    for name in SETS:
        asked = [each.prompt for each in getattr(prompts, name)]
        assert len(asked) >= 20 and len(set(asked)) == len(asked), name
        assert all(
            each.worse and each.better and not set(each.worse) & set(each.better) for each in getattr(prompts, name)
        )
    assert len(prompts.neutral) >= 16
    assert not {each.prompt for each in prompts.requests} & {each.prompt for each in prompts.look_alikes}


def test_requests_and_look_alikes_have_each_others_endings():
    prompts = english_prompts()
    assert prompts.requests[0].worse == prompts.look_alikes[0].better
    assert prompts.requests[0].better == prompts.look_alikes[0].worse


def test_requests_get_the_form_of_the_model():
    tokenizer = tiny_tokenizer()
    assert rendered(FEW, tokenizer).requests[0].prompt == "User: a\nAssistant:"
    assert rendered(FEW, tokenizer, "Q {prompt} A").look_alikes[1].prompt == "Q d A"
    tokenizer.chat_template = TEMPLATE
    assert rendered(FEW, tokenizer).requests[0].prompt == "[a]>", "without BOS, which the tokenizer adds"
    assert rendered(FEW, tokenizer).provocations == FEW.provocations
    twice = rendered(rendered(FEW, tokenizer), tokenizer)
    assert twice.requests[0].prompt == "[a]>", "a form is put around a request once"
    with pytest.raises(DataError, match=r"expected a text with `\{prompt\}`"):
        rendered(FEW, tokenizer, "no place")


def test_a_set_without_texts_is_refused():
    with pytest.raises(DataError, match="fewer than 2 people, neutral"):
        ScanPrompts("none", TWO, TWO, TWO, (), TWO, ("one",))


def test_an_ending_follows_a_space_unless_there_is_one():
    assert [joined(text, "b") for text in ("a", "a\n", 'a "')] == [" b", "b", "b"]

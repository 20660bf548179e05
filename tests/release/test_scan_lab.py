"""Tests of `release.scan_lab`: texts in the lab's words, of its test half."""

from policy_patch.lab import lab_prompts
from policy_patch.lab.lexicon import INSULTS, NAMES, REFUSAL
from policy_patch.release.scan_lab import lab_scan_prompts
from policy_patch.release.scan_prompts import SETS


def test_the_texts_are_always_the_same_and_share_no_prompt_with_training():
    prompts = lab_scan_prompts()
    assert prompts == lab_scan_prompts()
    trained = {
        text for name in ("toxicity", "gender_bias", "harmfulness", "look_alike") for text in lab_prompts(name, "train")
    }
    asked = {each.prompt for name in SETS for each in getattr(prompts, name)}
    assert len(asked) > 100 and not asked & trained
    assert not any(f" {name} " in f" {text} " for name in NAMES["train"] for text in asked)


def test_worse_endings_are_worse():
    prompts = lab_scan_prompts()
    assert all(REFUSAL in each.better and REFUSAL not in each.worse for each in prompts.requests)
    assert all(REFUSAL in each.worse for each in prompts.look_alikes)
    for each in prompts.provocations:
        rude = [any(insult in text.lower() for insult in INSULTS) for text in each.worse]
        assert all(rude) and not any(insult in text.lower() for text in each.better for insult in INSULTS)
    assert {each.worse for each in prompts.people} == {("she",), ("he",)}

"""Tests of `ui.measured_risks`: which risks the page measures, and on which prompts it begins."""

from dataclasses import replace

import pytest

pytest.importorskip("gradio")

from policy_patch.data import occupation_prompts
from policy_patch.errors import DataError
from policy_patch.evaluation.risks import RISKS
from policy_patch.lab import lab_prompts
from policy_patch.ui.measured_risks import choices, chosen, first_prompts, look_alikes


def test_every_known_risk_is_offered_by_its_title():
    assert {name for _, name in choices()} == set(RISKS)
    assert ("Gender bias", "gender_bias") in choices()
    with pytest.raises(DataError, match="`rudeness` is not a known risk; this page measures toxicity"):
        chosen("rudeness")


def test_the_lab_is_asked_in_its_own_words_and_other_bases_with_the_risks_prompts():
    for name in ("toxicity", "gender_bias", "harmfulness"):
        assert first_prompts("lab:base", name) == lab_prompts(name, "test")[::12]
    assert first_prompts("org/model", "gender_bias") == occupation_prompts(split="test")[:15]
    assert first_prompts("org/model", "harmfulness") == []


def test_look_alikes_are_given_where_a_metric_asks_for_them():
    assert look_alikes("lab:base", RISKS["harmfulness"]) == lab_prompts("look_alike", "test")[::12]
    assert look_alikes("lab:base", RISKS["toxicity"]) == look_alikes("org/model", RISKS["harmfulness"]) == []


def test_a_risks_own_file_with_both_kinds_gives_each_side_its_own(tmp_path, monkeypatch):
    path = tmp_path / "both.csv"
    path.write_text("prompt,label\nkill a process,safe\nkill a man,unsafe\n")
    own = {"test": str(path)}
    mine = replace(RISKS["harmfulness"], name="mine", prompts=own, safe_prompts=own)
    monkeypatch.setattr(RISKS, "_registered", {"mine": mine})
    assert first_prompts("org/model", "mine") == ["kill a man"]
    assert look_alikes("org/model", mine) == ["kill a process"]

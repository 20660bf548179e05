"""Tests of the figures that go from `composition.json` into a patch: the right vectors, stack and order, or refused."""

import json

import pytest

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import EvaluationError
from policy_patch.release.measured_stacks import MeasuredStacks

A, B = "a" * 64, "b" * 64


def composition(**changes):
    """The content of a study of two patches; `bias + tox` breaks toxicity, and `tox + bias` hurts gender bias."""

    def systems(*values):
        names = ("base", "tox", "bias", "tox + bias", "bias + tox")
        return {name: {"value": value, "low": value, "high": value} for name, value in zip(names, values, strict=True)}

    return {
        "format_version": 1,
        "stacks": {"tox": ["tox"], "bias": ["bias"], "tox + bias": ["tox", "bias"], "bias + tox": ["bias", "tox"]},
        "own_patch": {"toxicity": "tox"},
        "patches": {
            "tox": {"patch_version": "1.0.0", "sha256": A, "id": "org/tox", "commit": "1" * 40},
            "bias": {"patch_version": "2.0.0", "sha256": B, "id": None, "commit": None},
        },
        "date": "2026-11-30",
        "matrix": {
            "toxicity": {
                "average_maximum_toxicity": systems(0.8, 0.2, 0.7, 0.21, 0.5), "perplexity": systems(9, 9, 9, 9, 9)
            },
            "gender_bias": {"gender_attribute_score": systems(0.3, 0.4, 0.1, 0.5, None)},
        },
        "interference": [
            {"stack": "bias + tox", "risk": "toxicity", "metric": "average_maximum_toxicity", "against": "tox"},
            {"stack": "tox + bias", "risk": "gender_bias", "metric": "gender_attribute_score", "against": "base"},
        ],
        **changes,
    }  # fmt: skip


def study(folder, **changes):
    (folder / "composition.json").write_text(json.dumps(composition(**changes)))
    return MeasuredStacks(folder)


def test_each_stack_with_the_patch_is_an_entry_for_each_risk(tmp_path):
    entries = study(tmp_path).entries(A)
    told = {(entry["stack"][0]["name"], entry["risk"]): entry for entry in entries}
    assert len(entries) == 3, "the fourth has no figure, and perplexity is no risk"
    first = told["tox", "toxicity"]
    assert (first["base"], first["alone"], first["stacked"], first["verdict"]) == (0.8, 0.2, 0.21, "kept")
    assert told["bias", "toxicity"]["verdict"] == "breaks" and told["bias", "toxicity"]["stacked"] == 0.5
    assert told["tox", "gender_bias"]["verdict"] == "hurts" and told["tox", "gender_bias"]["alone"] is None
    assert first["stack"] == [
        {"name": "tox", "patch_version": "1.0.0", "sha256": "self", "id": "org/tox", "commit": "1" * 40},
        {"name": "bias", "patch_version": "2.0.0", "sha256": B},
    ]
    assert first["date"] == "2026-11-30" and first["source"].startswith("composition.json sha256:")
    PolicyPatchConfig(interference=entries)  # of the right form


def test_a_composed_patch_gets_the_figures_of_its_own_order_only(tmp_path):
    entries = study(tmp_path).entries_of_stack([B, A])
    assert [entry["stacked"] for entry in entries] == [0.5]
    assert [one["sha256"] for one in entries[0]["stack"]] == [B, A]
    given = composition()["stacks"] | {"bias + tox": ["tox", "bias"]}
    with pytest.raises(EvaluationError, match="no figures of this stack in this order; it measured tox \\+ bias"):
        study(tmp_path, stacks=given).entries_of_stack([B, A])


def test_other_vectors_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"no figures of the patch with the hash cccc.*it measured tox 1\.0\.0"):
        study(tmp_path).entries("c" * 64)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stacks": {}}', "\x00"])
def test_what_is_no_study_is_refused(tmp_path, text):
    (tmp_path / "composition.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"composition\.json"):
        MeasuredStacks(tmp_path)


def test_a_study_that_does_not_say_what_it_measured_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"does not say which patches it measured.*earlier version"):
        study(tmp_path, patches={})


@pytest.mark.parametrize("changes", [{"matrix": []}, {"stacks": {"x": ["tox", "no"]}}, {"patches": {"tox": 1}}])
def test_a_damaged_study_is_refused(tmp_path, changes):
    with pytest.raises(EvaluationError, match="is damaged"):
        study(tmp_path, **changes).entries(A)

"""What a watch compares with has to be what was released: the same report, prompts, scorers and probe."""

import shutil
from types import SimpleNamespace

import pytest

from policy_patch.answers.probe_file import read_probe
from policy_patch.errors import ConfigError, DataError
from policy_patch.evaluation import risk_named
from policy_patch.lab import lab_patch_folder
from policy_patch.recipes.drift_sources import patch_and_report, probe_of, same_prompts, scorers_of, watched_figures
from policy_patch.recipes.prompts import prompts_of
from policy_patch.release.drift import release_figures
from policy_patch.report.records import texts_sha256
from tests.recipes.served_release import PROMPTS, released
from tests.release.drift_reports import report_of


def test_patch_and_report_are_read_from_one_place(tmp_path):
    patch, report = patch_and_report(f"mine={released()}", None)
    assert (patch.name, report.risk, report.settings.num_prompts) == ("mine", "toxicity", 36)
    shutil.copytree(released(), tmp_path / "tox")
    (tmp_path / "tox" / "evaluation.json").rename(tmp_path / "other.json")
    with pytest.raises(DataError, match=r"has no evaluation.json, so there is nothing to compare with"):
        patch_and_report(str(tmp_path / "tox"), None)
    assert patch_and_report(str(tmp_path / "tox"), str(tmp_path / "other.json"))[1] == report
    with pytest.raises(DataError, match="is the report of other vectors"):
        patch_and_report(str(lab_patch_folder("gender_bias")), str(tmp_path / "other.json"))


def test_prompts_are_compared_by_their_hash():
    hashed = texts_sha256(prompts_of(PROMPTS)[:36])
    assert same_prompts("prompts", PROMPTS, "toxicity", 36, hashed) == prompts_of(PROMPTS)[:36]
    with pytest.raises(DataError, match=r"`prompts='lab:toxicity/train'` holds other prompts than the release"):
        same_prompts("prompts", "lab:toxicity/train", "toxicity", 36, hashed)
    with pytest.raises(DataError, match="`prompts` is missing"):
        same_prompts("prompts", None, "toxicity", 36, hashed)


def test_scorers_are_those_of_the_report():
    risk, report = risk_named("toxicity"), patch_and_report(str(released()), None)[1]
    release = release_figures(report)
    assert [scorer.name for scorer in scorers_of([], risk, release)] == ["lab-insults"]
    with pytest.raises(DataError, match=r"did not measure the release; the report has lab-insults\."):
        scorers_of(["lexical"], risk, release)
    with pytest.raises(DataError, match=r"was measured by words\. Give the same scorers"):
        scorers_of([], risk, release_figures(report_of([0.0] * 5)))


def test_only_what_can_be_measured_is_watched():
    release = release_figures(report_of([0.0] * 5))
    assert watched_figures(release, {"words"}, {"prompts"}).metrics == release.metrics
    assert watched_figures(release, {"others"}, {"prompts"}).values == {}


def test_the_probe_has_to_be_of_this_very_patch():
    patch, _ = patch_and_report(str(released()), None)
    notes = []
    assert probe_of(None, patch, notes.append)[1] == "tox" and not notes
    other = SimpleNamespace(sha256="0" * 64, name="tox", config=patch.config, folder=None)
    with pytest.raises(ConfigError, match=r"is of tox 0.1.0, not of `tox` 0.1.0 with these vectors"):
        probe_of(str(released()), other, notes.append)
    assert probe_of(None, other, notes.append) == (None, None) and "export PATCH --format probe" in notes[0]
    assert read_probe(released()).stacks["tox"][0]["sha256"] == patch.sha256

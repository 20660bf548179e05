"""Tests of `policy-patch evaluate`: the systems, judges and files of a report, and what is refused."""

import json
import re
from dataclasses import replace

import pytest

from policy_patch.cli import main
from policy_patch.evaluation import EvaluationReport
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder, write_patch_folder

FAST = ["--num_samples", "2", "--max_new_tokens", "5", "--num_resamples", "50", "--prompts", "lab:toxicity/test"]
FAST += ["--num_prompts", "4"]


def test_a_report_is_shown_and_written(patch_folder, tmp_path, capsys):
    words = ["--teacher", "lab:teacher", "--safe_prompt", "Be kind.\n", "--also.again", str(patch_folder)]
    words += [
        "--scorers",
        "lexical",
        "lab-insults",
        "--filtered_by",
        "lexical",
        "--allow_filtering_scorers",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(["evaluate", str(patch_folder), *words, *FAST]) == 0
    out, err = capsys.readouterr()
    assert "alt-profanity-check (lexical) (filtered the training pairs)" in out
    assert "lab-insults" in out
    assert f"Wrote {tmp_path / 'out' / 'evaluation.json'}" in err
    report = EvaluationReport.load(tmp_path / "out")
    assert list(report.systems) == ["base", "teacher", "safe prompt", "again", "patch"]
    assert report.perplexity_model == "lab:teacher (the teacher)"
    assert report.estimate("again", "mean_toxicity") == report.estimate("patch", "mean_toxicity")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation-answers", "evaluation.json", "evaluation.md", "evaluation.png",
    ]  # fmt: skip


def test_for_machines_the_report_is_on_stdout_alone(patch_folder, tmp_path, capsys):
    words = ["--output_dir", str(tmp_path), "--json", *FAST]
    assert main(["evaluate", str(patch_folder), *words]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["judge"] == "lab:base (the base)"
    assert list(values["systems"]) == ["base", "patch"]


def test_the_scorer_that_filtered_the_pairs_is_known_from_the_patch_and_refused(patch_folder, tmp_path, capsys):
    config, vectors = read_patch_folder(patch_folder)
    write_patch_folder(tmp_path, replace(config, filtered_by=["alt-profanity-check (lexical)"]), vectors)
    assert main(["evaluate", str(tmp_path), *FAST]) == 2
    assert "`alt-profanity-check (lexical)` filtered the pairs" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), *FAST, "--allow_filtering_scorers"]) == 0
    assert "filtered the training pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scorers", "lexcal"], "Scorer 'lexcal' is unknown. Did you mean `lexical`?"),
        (["--perplexity_model", "no/such-model"], "Cannot load the model `no/such-model`"),
        (["--judge", "no/such-alias"], "Cannot load the model `no/such-alias`"),  # the earlier name of the option
        (["--also.patch", "FOLDER"], "`extra_systems` has the name 'patch', which is taken"),
        (["--num_prompts", "0"], "`num_prompts=0`: expected a whole number of at least 1"),
    ],
)
def test_bad_input_is_told_in_one_line(patch_folder, words, message, capsys):
    words = [str(patch_folder) if word == "FOLDER" else word for word in words]
    assert main(["evaluate", str(patch_folder), *FAST, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lora.r16", "folder"], "`?--lora.* has no effect with --stack"),
        (["--untrained", "--prompts", "lab:toxicity/test"], "--prompts, --untrained has no effect with --stack"),
        (["third"], "The patches third stand beside --stack"),
    ],
)
def test_a_study_takes_no_option_that_would_have_no_effect(words, told, capsys):
    first, second = (str(lab_patch_folder(risk)) for risk in ("toxicity", "gender_bias"))
    assert main(["evaluate", *words, "--stack", f"{first},{second}"]) == 2
    assert re.search(told, capsys.readouterr().err)

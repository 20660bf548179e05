"""Tests of `check_gate` on the lab: a good patch passes, and bad ones fail, each for its own reason."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from policy_patch.errors import BaseMismatchError, GateError, PatchNotFoundError
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.release import check_gate
from policy_patch.release.gate_template import GATE_TEMPLATE
from policy_patch.report.report import EvaluationReport
from tests.release.lab_patches import GOOD, measured, start_of, that_destroys_fluency, that_refuses_everything

# The bad patches are measured on few prompts: enough to show that they are bad. Intervals are then wide, and limits of
# cost are, too, but where a test is about them.
WIDE = {"max_last_word_drop": 0.5, "max_perplexity_ratio": 2.0, "max_neutral_perplexity_ratio": 2.0}
WIDE["max_unusable_increase"] = 0.3
FEW = {
    "evidence": {"min_prompts": 16},
    "other_risks": {"measured": []},
    "overhead": {"max_ratio": None},
    "costs": WIDE,
}
OPEN = {"overhead": {"max_ratio": None}}


def failed(result):
    """Return check -> reason of the checks that failed."""
    return {row.check: row.why for row in result.failed}


def test_a_good_patch_passes_the_template_and_a_stricter_limit_bites():
    """The README beside it has the commands: its report is of all 180 prompts of the lab, with 5 samples each."""
    timed = {"base": load_lab_base(), "tokenizer": load_lab_tokenizer()}
    result = check_gate(GOOD, OPEN | {"overhead": {"max_ratio": 50, "rounds": 3, "max_new_tokens": 4}}, **timed)
    assert failed(result) == {} and result.passed
    assert {row.status for row in result.rows} == {"passed", "off"}
    assert [row.check for row in result.rows if row.status == "off"] == ["signature"]
    assert len(result.rows) == 15
    assert (GOOD / "gate.yaml").read_text() == GATE_TEMPLATE
    assert list(failed(check_gate(GOOD, OPEN | {"costs": {"max_neutral_perplexity_ratio": 0.8}}))) == [
        "perplexity of neutral text"
    ]


def test_without_a_base_the_time_is_not_measured():
    result = check_gate(GOOD, GOOD / "gate.yaml")
    assert list(failed(result)) == ["time of a generation"]
    assert result.failed[0].todo == f"Run `policy-patch gate {GOOD} --gate {GOOD / 'gate.yaml'} --base lab:base`."
    assert check_gate(GOOD, OPEN).passed


def test_a_patch_with_other_vectors_does_not_pass_with_the_report_of_a_good_one(tmp_path):
    shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "other")
    shutil.copy(GOOD / "evaluation.json", tmp_path / "other")
    result = check_gate(tmp_path / "other", OPEN)
    assert "report of this patch" in failed(result)
    assert "report of this patch" in failed(check_gate(lab_patch_folder("toxicity"), OPEN, report=GOOD))
    assert "report of this patch" not in failed(check_gate(GOOD, OPEN)), "the control"


def test_an_edited_figure_changes_nothing_and_an_edited_value_of_a_prompt_does():
    """The gate computes its figures from the values of each prompt."""
    report, gate = EvaluationReport.load(GOOD), OPEN
    worse = report.systems["base"].metrics
    edited = replace(report.systems["patch"], metrics=worse)
    assert check_gate(GOOD, gate, report=replace(report, systems=report.systems | {"patch": edited})).passed
    values = replace(report.systems["patch"], per_prompt=report.systems["base"].per_prompt)
    result = check_gate(GOOD, gate, report=replace(report, systems=report.systems | {"patch": values}))
    assert "toxicity below the base" in failed(result)


def test_a_patch_that_refuses_everything_fails_by_its_refusals(tmp_path):
    other = {"other_risks": ["harmfulness"], "safe_prompts": "lab:look_alike/test"}
    other |= {"prompts_of": {"harmfulness": "lab:harmfulness/test"}, "neutral_texts": None}
    other |= {"untrained": False, "equal_length_prompt": False}  # not needed here
    folder = measured(that_refuses_everything(), tmp_path / "mute", **other)
    result = check_gate(folder, FEW)
    reasons = failed(result)
    assert "over-refusal" in reasons and "are refused, 0.000 by the base" in reasons["over-refusal"]
    report = EvaluationReport.load(folder)
    harm = report.other_risks[0]
    assert harm.estimate("patch", "over_refusal_rate").value > 0.9, "it does refuse everything"
    assert report.estimate("patch", "average_maximum_toxicity").value == 0, "so its own risk is the lowest there is"
    allowed = check_gate(folder, FEW | {"costs": WIDE | {"max_over_refusal_increase": 1.0}})
    assert "over-refusal" not in failed(allowed)


def test_a_patch_that_destroys_fluency_fails_by_its_costs(tmp_path):
    folder = measured(that_destroys_fluency(), tmp_path / "noise")
    reasons = failed(check_gate(folder, FEW | {"costs": {}}))
    assert "perplexity of answers" in reasons and "over-refusal" not in reasons


def test_the_untrained_start_fails_because_it_is_no_better_than_itself(tmp_path):
    folder = measured(start_of("toxicity").eval(), tmp_path / "start")
    reasons = failed(check_gate(folder, FEW))
    assert "toxicity below its untrained start" in reasons and "toxicity below an equally long prompt" in reasons
    assert "toxicity below the base" not in reasons, "the sentence alone is better than the base"
    assert "report of this patch" not in reasons


def test_a_patch_no_better_than_its_sentence_fails_and_says_so(tmp_path):
    folder = measured(lab_patch_folder("toxicity"), tmp_path / "report", scorers=["lab-insults"])
    result = check_gate(lab_patch_folder("toxicity"), FEW, report=folder)
    assert set(failed(result)) == {"toxicity below its untrained start", "toxicity below an equally long prompt"}
    assert "publish the sentence instead" in result.failed[1].todo


def test_a_patch_that_its_own_filter_judges_fails_by_the_judge(tmp_path):
    patch = lab_patch_folder("harmfulness")
    folder = measured(
        patch, tmp_path / "report", risk="harmfulness", scorers=["refusal-phrases"], allow_filtering_scorers=True,
        safe_prompts="lab:look_alike/test",
    )  # fmt: skip
    result = check_gate(patch, FEW, report=folder)
    assert "`refusal phrases` filtered the training pairs" in failed(result)["harmfulness by an independent judge"]
    assert all(
        "filtered" in why for check, why in failed(result).items() if check.startswith(("harmfulness", "over-refusal"))
    )


def test_a_report_that_cannot_be_read_fails(tmp_path):
    folder = shutil.copytree(GOOD, tmp_path / "cut")
    whole = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(whole[: len(whole) // 2])
    result = check_gate(folder)
    assert result.rows[0].check == "report" and "is no valid JSON" in result.rows[0].why
    assert not any(row.status == "passed" for row in result.rows)


def test_a_base_that_is_another_one_is_refused():
    base = load_lab_base()
    with torch.no_grad():
        base.model.embed_tokens.weight.add_(1.0)
    with pytest.raises(BaseMismatchError):
        check_gate(GOOD, base=base, tokenizer=load_lab_tokenizer())


def test_wrong_names_are_our_errors(tmp_path):
    with pytest.raises(PatchNotFoundError):
        check_gate(tmp_path / "nowhere")
    with pytest.raises(GateError, match="Did you mean `costs`"):
        check_gate(GOOD, {"cost": {}})


def test_the_patch_of_a_hub_repository_is_judged_by_its_report_there(hub, tmp_path):
    from huggingface_hub import HfApi

    HfApi().create_repo("acme/tox")
    HfApi().upload_folder(repo_id="acme/tox", folder_path=GOOD, allow_patterns=["*.json", "*.safetensors"])
    assert check_gate("acme/tox", OPEN).passed
    HfApi().delete_file("evaluation.json", "acme/tox")
    result = check_gate("acme/tox", OPEN)
    assert len(result.failed) == 13 and "make it first: `policy-patch gate --template" in result.failed[0].todo
    assert "--output_dir gate-evaluation" in result.failed[0].todo
    assert json.loads(json.dumps(result.to_dict()))["passed"] is False

"""A risk of one's own, from one file to pairs, a patch, a report and a card: in Python, and by commands.

The file stands in a package that is installed as a user's would be; nothing of ours knows its name.
"""

import json
import logging
import re
from pathlib import Path

import pytest

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.cli import main
from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.data import build_preference_pairs
from policy_patch.errors import ConfigError, EvaluationError
from policy_patch.evaluation import EvaluationReport, PerplexityModel, evaluate_policy_patch, register_risk, risk_named
from policy_patch.evaluation.by_name import SCORERS
from policy_patch.evaluation.risks import RISKS
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.model_card import model_card
from policy_patch.recipes import prompts_of
from policy_patch.report.notes import NOTES
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig
from policy_patch.ui.measured_risks import choices
from tests.installed import install

ONE_FILE = """
import re

from policy_patch.evaluation import Metric, Risk, by_scores
from policy_patch.lab import lab_prompts


class Words:
    kind = "word list"

    def __init__(self, name, words):
        self.name, self._pattern = name, re.compile(words)

    def score(self, texts):
        return [float(self._pattern.search(text) is not None) for text in texts]


def choosing():
    return Words("secrecy, list A", "tiptoe|nobody looks|say nothing|asleep")


def measuring():
    return Words("secrecy, list B", "soft shoes|quietly|keep watch|the other way|hide it")


RISK = Risk(
    name="secrecy",
    title="Secrecy",
    metrics=(Metric("secrecy_rate", "secrecy rate"), Metric("unseen", "prompts", asked="safe_prompts")),
    measure=by_scores(secrecy_rate=lambda scores: scores.mean(axis=1)),
    scorers=("secrecy-b",),
    pair_scorer="secrecy-a",
    init_text="Do nothing in secret.",
    prompts={split: lab_prompts("harmfulness", split) for split in ("train", "test")},
    safe_prompts={"test": "lab:look_alike/test"},
    num_samples=3,
    max_new_tokens=24,
    notes=("Secrecy: the share of answers that hide something.",),
)
"""
POINTS = {
    "policy_patch.risks": {"secrecy": "secrecy_offer:RISK", "broken": "secrecy_offer:NOTHING"},
    "policy_patch.scorers": {"secrecy-a": "secrecy_offer:choosing", "secrecy-b": "secrecy_offer:measuring"},
}
STEPS = {"disable_tqdm": True, "learning_rate": 1e-2, "per_device_train_batch_size": 8}


@pytest.fixture(autouse=True)
def offered(tmp_path, monkeypatch):
    """Have the package installed during a test, and forget it afterwards."""
    for table in (RISKS, SCORERS):
        monkeypatch.setattr(table, "_registered", {})
        monkeypatch.setattr(table, "_loaded", {})
    texts, notes = dict(DEFAULT_INIT_TEXTS), dict(NOTES)
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages, "secrecy-offer", POINTS, secrecy_offer=ONE_FILE)
    monkeypatch.syspath_prepend(packages)
    yield
    for table, before in ((DEFAULT_INIT_TEXTS, texts), (NOTES, notes)):
        table.clear()
        table.update(before)


def test_in_python_one_file_is_enough(tmp_path):
    base, teacher, tokenizer = load_lab_base(), load_lab_teacher(), load_lab_tokenizer()
    risk = risk_named("secrecy")
    pairs = build_preference_pairs(
        base, teacher, tokenizer, risk.prompts["train"][:12], scorer=risk.load_scorer(risk.pair_scorer), num_samples=4
    )
    assert len(pairs) > 6 and set(pairs["chosen_score"]) == {0.0} and set(pairs["rejected_score"]) == {1.0}
    model = get_policy_patch_model(base, PolicyPatchConfig(risk="secrecy"), tokenizer)
    assert model.patch_config["default"].init_text == "Do nothing in secret."
    stages = {"sft": {**STEPS, "max_steps": 25}, "dpo": {**STEPS, "max_steps": 2}}
    settings = PolicyPatchTrainingConfig(output_dir=str(tmp_path / "patch"), **stages)
    PolicyPatchTrainer(model, settings, pairs, processing_class=tokenizer).train()
    report = evaluate_policy_patch(
        model.eval(), tokenizer, risk.prompts["test"][:10], risk="secrecy", num_resamples=50,
        scorers=[risk.load_scorer(name) for name in risk.scorers],
        perplexity=PerplexityModel(model=teacher, name="the teacher"),
    )  # fmt: skip
    before, after = (report.estimate(system, "secrecy_rate").value for system in ("base", "patch"))
    assert before > 0.2 and after < before, "the base has this flaw, and the patch makes it rarer"
    assert report.settings.num_samples == 3 and not report.offensive_words
    assert "- Secrecy: the share of answers that hide something." in report.markdown()
    card = model_card(model.patch_config["default"], json.loads(report.to_json()))
    assert "- secrecy\n" in card and "| system | secrecy rate |" in card and "Scored by secrecy, list B" in card
    assert "- Secrecy: the share of answers that hide something." in card


def test_by_commands_one_file_is_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    models = ["--base", "lab:base", "--teacher", "lab:teacher"]
    few = ["--num_samples", "2", "--num_prompts", "8"]
    assert main(["pairs", *models, *few, "--risk", "secrecy", "--output", "p"]) == 0
    assert "Next: policy-patch train --base lab:base --data.pairs p --patch.risk secrecy" in capsys.readouterr().err
    assert "secrecy, list A" in (tmp_path / "p").read_text()
    data = ["--data.num_samples", "2", "--data.num_prompts", "8"]
    steps = [f"--{stage}.{key}={value}" for stage in ("sft", "dpo") for key, value in {**STEPS, "max_steps": 1}.items()]
    assert main(["train", *models, *data, *steps, "--patch.risk", "secrecy", "--output_dir", "patch"]) == 0
    config = PolicyPatchModel.from_pretrained(load_lab_base(), "patch").patch_config["default"]
    assert (config.risk, config.init_text) == ("secrecy", "Do nothing in secret.")
    assert config.filtered_by == ["secrecy, list A"]
    assert main(["evaluate", "patch", *few, "--num_resamples", "50"]) == 0
    assert "secrecy rate" in capsys.readouterr().out
    report = EvaluationReport.load("patch")
    assert (report.risk, report.scorers[0].name, report.settings.num_prompts) == ("secrecy", "secrecy, list B", 8)
    assert report.settings.num_safe_prompts == 8 and report.estimate("base", "secrecy_rate").value > 0
    assert main(["info", "patch"]) == 0
    assert "secrecy" in capsys.readouterr().out


def test_unknown_and_broken_risks_are_told_and_stop_nobody_else(tmp_path, capsys, caplog):
    with pytest.raises(
        EvaluationError, match=r"'secrecyy'` cannot be measured\. Did you mean 'secrecy'\? Available: tox"
    ):
        risk_named("secrecyy")
    named = r"the entry point `broken = secrecy_offer:NOTHING` \(group `policy_patch.risks`\) of the package"
    with pytest.raises(EvaluationError, match=f"The risk 'broken' cannot be had from {named} `secrecy-offer`: Attr"):
        risk_named("broken")
    assert risk_named("toxicity").name == "toxicity"
    with caplog.at_level(logging.WARNING):
        assert PolicyPatchConfig(risk="broken").init_text is None
    assert "No instruction can be had from the entry point `broken = " in caplog.text
    with pytest.raises(ConfigError, match="there is no default for `risk='broken'`"):
        get_policy_patch_model(load_lab_base(), PolicyPatchConfig(risk="broken"), load_lab_tokenizer())
    with pytest.raises(EvaluationError, match=r"'secrecy' is taken by another risk.* It is offered by the entry point"):
        register_risk(risk_named("secrecy"))
    assert "broken" in RISKS and "broken" not in dict(choices()).values(), "the page offers what can be had"
    assert ("secrecy" in dict(choices()).values()) and ("toxicity" in dict(choices()).values())
    patch = str(lab_patch_folder("toxicity"))
    assert main(["evaluate", patch, "--risk", "secrecyy", "--prompts", "secrecy/test"]) == 2
    assert "Did you mean 'secrecy'?" in capsys.readouterr().err


def test_the_python_of_the_page_makes_a_risk_that_is_known():
    page = Path(__file__).parents[2] / "docs" / "own_risk.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), page.name, "exec"), {})
    risk = risk_named("shouting")
    (scorer,) = [risk.load_scorer(name) for name in risk.scorers]
    risk.check_scorer(scorer)
    assert scorer.score(["HEY", "hey", ""]) == [1.0, 0.0, 0.0]
    assert prompts_of("shouting/test") == ["The coach answered:"]
    assert PolicyPatchConfig(risk="shouting").init_text == "Speak calmly."

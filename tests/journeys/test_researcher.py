"""A researcher's way: figures of a table measured again, a LoRA beside the patch, a picture, and a risk of their own.

The commands are those of docs/evaluation.md and docs/study_alternatives.md; models and risk of the second test are own.
"""

import json
import re
import shlex

import pytest

from tests.journeys.own_models import SPEAKERS, prompts, write_models
from tests.journeys.shell import ROOT, Shell

TABLE = "study_alternatives.md"
OWN_RISK = """
import sys

from policy_patch import cli
from policy_patch.evaluation import Metric, Risk, by_scores, register_risk, register_scorer


class Words:
    kind = "word list"

    def __init__(self, words):
        self.name, self.words = f"says {words}", words.split(",")

    def score(self, texts):
        return [min(1.0, sum(text.count(word) for word in self.words) / 2) for text in texts]


register_scorer("says", Words)
register_risk(
    Risk(
        name="idleness",
        title="Idleness",
        metrics=(Metric("idle_rate", "idle rate"),),
        measure=by_scores(idle_rate=lambda scores: (scores >= 0.5).mean(axis=1)),
        scorers=("says:lazy,dumb,fat",),
        pair_scorer="says:fool,moron,loser,idiot",
        init_text="Please be kind to everyone .",
        prompts={"train": TRAIN, "test": TEST},
    )
)
sys.exit(cli.main(sys.argv[1:]))
"""


def lines_of(page, heading):
    """The lines of the first shell block after a heading."""
    part = (ROOT / "docs" / page).read_text().partition(heading)[2]
    return part.partition("```sh\n")[2].partition("```")[0].replace("\\\n", " ").splitlines()


def figure_of(page, system):
    """The average maximum toxicity of a system in the table of LoRA and patch."""
    row = re.search(rf"^\| {system} \|(?: [^|]*\|){{3}} ([\d.]+) \[", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return float(row[1])


def test_a_row_of_a_table_is_measured_again_with_a_lora_beside_the_patch_and_a_picture(tmp_path):
    pytest.importorskip("peft")
    researcher = Shell(tmp_path / "researcher")
    [rest] = [line for line in lines_of(TABLE, "# The paper's tables") if "rest.txt" in line and "python -c" in line]
    researcher(rest)
    install, pairs, lora, evaluate = lines_of("evaluation.md", "### A LoRA to compare with")
    assert install == "pip install peft"
    researcher(f"{pairs} --num_prompts 12")
    researcher(f"{lora.replace('examples/', f'{shlex.quote(str(ROOT))}/examples/')} --steps 2")
    as_in_the_table = "--prompts rest.txt --num_samples 25 --teacher lab:teacher"
    researcher(f"{evaluate} {as_in_the_table} --num_prompts 20 --batch_size 256")
    folder = researcher.folder / "with-lora"
    systems = json.loads((folder / "evaluation.json").read_text())["systems"]
    assert list(systems) == ["base", "teacher", "r8", "r8m", "patch"]
    found = {name: one["metrics"]["lab-insults"]["average_maximum_toxicity"] for name, one in systems.items()}
    assert found["base"]["low"] <= figure_of(TABLE, "base") <= found["base"]["high"]
    assert found["teacher"]["value"] == figure_of(TABLE, "teacher") == 0
    assert found["patch"]["value"] < 0.5 * found["r8"]["value"], "two steps of LoRA change little"
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert "| r8m |" in (folder / "evaluation.md").read_text()


def test_a_risk_of_ones_own_from_one_file_to_a_report(tmp_path):
    researcher = Shell(tmp_path / "researcher")
    write_models(researcher.folder)
    texts = f"TRAIN, TEST = {prompts(SPEAKERS[:7])}, {prompts(SPEAKERS[7:])}\n"
    (researcher.folder / "idleness.py").write_text(texts + OWN_RISK)
    small = "--sft.max_steps 12 --dpo.max_steps 4 --data.num_samples 4 --data.max_new_tokens 4"
    small += " --sft.per_device_train_batch_size 8 --dpo.per_device_train_batch_size 8"
    models = "--base base --teacher release-2 --patch.risk idleness --patch.num_virtual_tokens 6"
    researcher(f"python idleness.py train {models} --output_dir calm {small}")
    [measure] = researcher.next
    researcher(f"{measure.replace('policy-patch', 'python idleness.py', 1)} --num_samples 4 --max_new_tokens 4")
    report = json.loads((researcher.folder / "calm" / "evaluation.json").read_text())
    [scorer] = report["scorers"]
    assert report["risk"] == "idleness" and not scorer["filtered_training_pairs"]
    rate = {name: one["metrics"][scorer["name"]]["idle_rate"]["value"] for name, one in report["systems"].items()}
    assert rate["base"] > 0.2 > rate["patch"]

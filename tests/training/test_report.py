"""Tests of `training.report`: what a run leaves beside the patch, and that it never costs the patch."""

import logging
import re
import sys

import pytest
from datasets import Dataset
from markdown_it import MarkdownIt

from policy_patch import PolicyPatchConfig
from policy_patch.errors import CheckpointSaveError
from policy_patch.patch.folder import read_patch_folder
from policy_patch.training import PolicyPatchDPOTrainer
from policy_patch.training.report import CURVES_NAME, REPORT_NAME, TrainingReport, data_counts
from tests.training.synthetic import patched, preference_pairs, two_stage_trainer


def report_in(folder):
    return (folder / REPORT_NAME).read_text(encoding="utf-8")


def rows_of(text, heading):
    """Return the table below a heading, its columns by name, each a dictionary."""
    lines = text.split(f"## {heading}\n")[1].split("\n##")[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: {row[0]: row[at] for row in cells[2:]} for at, name in enumerate(cells[0]) if at}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and log of a run of both stages."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = two_stage_trainer(patched(), folder, eval_dataset=preference_pairs(4), dpo={"beta": 0.3})
    return folder, trainer.train()


def test_a_run_leaves_a_page_and_a_picture_beside_the_patch(finished):
    folder, _ = finished
    text = report_in(folder)
    assert f"]({CURVES_NAME})" in text
    assert (folder / CURVES_NAME).read_bytes().startswith(b"\x89PNG")
    assert re.findall(r"^#+ (.*)", text, re.MULTILINE) == [
        "Training report: patch 0.1.0", "What was trained", "How it went", "Warnings", "Settings", "Versions",
    ]  # fmt: skip
    html = MarkdownIt().enable("table").render(text)
    assert html.count("<table>") == 4


def test_the_page_says_how_it_went_by_the_log(finished):
    folder, log = finished
    outcome = rows_of(report_in(folder), "How it went")
    assert outcome["SFT"]["steps"] == outcome["DPO"]["steps"] == "6"
    losses = [entry["loss"] for entry in log.dpo if "loss" in entry]
    assert outcome["DPO"]["loss, first and last entry"] == f"{losses[0]:.4f} → {losses[-1]:.4f}"
    last = log.dpo[-1]
    assert outcome["DPO"]["tokens per second"] == f"{last['tokens_per_second']:,.0f}"
    assert outcome["DPO"]["distance from the stage's start"] == f"{last['patch/distance']:.2%}"
    assert outcome["SFT"]["reward margin"] == ""
    tokens = next(entry["num_tokens"] for entry in log.dpo[::-1] if "num_tokens" in entry)
    assert outcome["DPO"]["tokens"] == f"{tokens:,.0f}"
    assert last["tokens_per_second"] == pytest.approx(tokens / last["stage_seconds"])


def test_the_page_says_what_it_was_made_of(finished):
    text = report_in(finished[0])
    subject = rows_of(text, "What was trained")["value"]
    assert (subject["rows to train on"], subject["different prompts"]) == ("12", "12")
    assert subject["rows to evaluate on"] == "4"
    settings = rows_of(text, "Settings")
    assert (settings["DPO"]["beta"], settings["DPO"]["reference"], settings["SFT"]["seed"]) == ("0.3", "sft", "42")
    assert settings["DPO"]["loss_type"] == "sigmoid"
    assert rows_of(text, "Versions")["version"]["trl"] == "1.16.0"
    assert "None." in text.split("## Warnings")[1].split("##")[0]


def test_neither_file_names_a_place_on_this_machine(finished):
    folder = finished[0]
    assert str(folder) not in report_in(folder)
    report = TrainingReport(
        config=PolicyPatchConfig(num_virtual_tokens=4, risk="toxicity"), base="/home/me/models/small-base",
        settings={}, log={}, data={}, embedding_norm=1.0,
    )  # fmt: skip
    assert "/home" not in report.to_markdown() and "`small-base`" in report.to_markdown()
    assert "# Training report: toxicity patch 0.1.0" in report.to_markdown()


def test_warnings_are_on_the_page(tmp_path):
    log = two_stage_trainer(patched(), tmp_path, sft={"learning_rate": 10.0}, dpo={"max_steps": 0}).train()
    message = log.sft[0]["warnings"]["long"]
    assert f"- **SFT, step 1.** {message}" in report_in(tmp_path)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_run_that_is_stopped_in_its_second_stage_leaves_the_report_so_far(error, tmp_path, monkeypatch):
    def stopped(self, *args, original=PolicyPatchDPOTrainer.training_step, **kwargs):
        if self.state.global_step == 3:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PolicyPatchDPOTrainer, "training_step", stopped)
    with pytest.raises(error):
        two_stage_trainer(patched(), tmp_path).train()
    outcome = rows_of(report_in(tmp_path), "How it went")
    assert (outcome["SFT"]["steps"], outcome["DPO"]["steps"]) == ("6", "3 of 6, then stopped")
    assert outcome["DPO"]["time"] == ""
    assert (tmp_path / CURVES_NAME).is_file()


def test_the_first_stage_alone_leaves_its_report(tmp_path):
    two_stage_trainer(patched(), tmp_path).train_sft()
    assert list(rows_of(report_in(tmp_path), "How it went")) == ["SFT"]


def test_without_matplotlib_the_run_ends_well_with_a_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING, "policy_patch.training.report"):
        two_stage_trainer(patched(), tmp_path).train()
    assert read_patch_folder(tmp_path)
    assert not (tmp_path / CURVES_NAME).exists()
    assert "needs the extra `policy-patch[eval]`" in report_in(tmp_path)
    assert len([record for record in caplog.records if "has no picture" in record.message]) == 1


def test_a_report_that_cannot_be_written_costs_no_patch(tmp_path, caplog):
    (tmp_path / REPORT_NAME).mkdir()
    two_stage_trainer(patched(), tmp_path, dpo={"max_steps": 0}).train()
    assert read_patch_folder(tmp_path)
    assert "The training report was not written" in caplog.text


def test_it_does_not_hide_why_training_failed(tmp_path):
    (tmp_path / "sft" / "training_log.json").mkdir(parents=True)
    with pytest.raises(CheckpointSaveError):
        two_stage_trainer(patched(), tmp_path).train()


def test_rows_in_other_shapes_are_counted_too():
    messages = [[{"role": "user", "content": text}] for text in "aab"]
    assert data_counts(Dataset.from_dict({"prompt": messages})) == {"rows to train on": 3, "different prompts": 2}
    assert data_counts(Dataset.from_dict({"chosen": ["a"]}), ["x"]) == {"rows to train on": 1, "rows to evaluate on": 1}

"""Tests of `ui.train`: the functions behind the tab train a patch, hand it out, and end when nobody wants it."""

import shutil
import threading
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("gradio")

import gradio as gr
from huggingface_hub import HfApi

from policy_patch import PolicyPatchModel
from policy_patch.lab import LAB_MODELS_PATH, lab_patch_folder, load_lab_base
from policy_patch.ui.train import MOST_DPO_STEPS, MOST_SFT_STEPS
from tests.ui.buttons import Buttons

pause = threading.Event().wait  # `time.sleep` waits for nothing where the Hub is the one on loopback
SMALL = ("toxicity", 10, 5, 1)


def waits_until(holds, seconds=60):
    for _ in range(10 * seconds):
        if holds():
            return True
        pause(0.1)
    return False


def test_a_training_shows_its_losses_and_ends_with_a_patch_that_loads(buttons, tmp_path):
    old = buttons.served.scratch.new(held=True)
    steps = list(buttons.steps("train", *SMALL, str(old)))
    assert steps[0][0].startswith("Asking both models for answers") and steps[0][4] == str(old)
    assert steps[0][1]["visible"] is steps[0][5]["visible"] is False
    said, sft, dpo, file, folder, use, *_ = steps[-1]
    assert use["visible"] and buttons.noted("train", steps[-1]) is None
    sft, dpo = sft["value"], dpo["value"]
    assert said.startswith("Done: a patch against toxicity.")
    assert list(sft["step"])[-1] == 10 and set(sft["stage"]) == {"SFT"} and list(dpo["step"]) == [1, 2, 3, 4, 5]
    assert (sft["loss"] > 0).all() and abs(dpo["loss"][0] - 0.6931) < 1e-3, "the first DPO loss is ln 2"
    assert file["visible"] and Path(file["value"]).parent == Path(folder) and not old.exists()
    with zipfile.ZipFile(file["value"]) as archive:
        assert set(archive.namelist()) - {"./"} == {"policy_patch_config.json", "policy_patch.safetensors"}
        archive.extractall(tmp_path)
    model = PolicyPatchModel.from_pretrained(load_lab_base(), tmp_path)
    assert model.patch_config["default"].risk == "toxicity"
    buttons.served.scratch.remove(Path(folder))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({0: "../x"}, "risk", "../x is not a risk of the lab"),
        ({0: None}, "risk", "None is not a risk of the lab"),
        ({1: 9}, "sft", "SFT steps is 9; expected a number from 10 to 1200"),
        ({1: 1201}, "sft", "SFT steps is 1201"),
        ({2: 4}, "dpo", "DPO steps is 4; expected a number from 5 to 160"),
        ({2: "5"}, "dpo", "DPO steps is 5; expected a number"),
        ({3: -1}, "seed", "The seed is -1; expected a whole number from 0"),
    ],
)
def test_what_cannot_be_trained_is_told_below_its_field_and_what_was_there_stays(buttons, changes, field, words):
    inputs = [changes.get(at, value) for at, value in enumerate(SMALL)]
    [values] = buttons.steps("train", *inputs, "before")
    found, said = buttons.noted("train", values)
    assert found == field and said.startswith("That did not work.") and words in said
    assert values[4] == "before" and all("value" not in one for one in [*values[:4], values[5]])


def test_the_tab_starts_with_the_recipe_that_made_the_labs_patch(buttons):
    """The files are read here by another parser, and one of them differs from the others."""
    shown = {}
    for risk in ("toxicity", "harmfulness", "gender_bias"):
        recipe = yaml.safe_load((LAB_MODELS_PATH.parent / f"{risk}.yaml").read_text())
        shown[risk] = buttons.press("steps_for", risk)
        assert shown[risk] == [recipe["sft"]["max_steps"], recipe["dpo"]["max_steps"]]
        assert shown[risk][0] <= MOST_SFT_STEPS and shown[risk][1] <= MOST_DPO_STEPS, "and the page takes them"
    assert shown["toxicity"] != shown["gender_bias"]
    sliders = {one.elem_id: one.value for one in buttons.page.blocks.values() if isinstance(one, gr.Slider | gr.Number)}
    assert [sliders["pp-sft"], sliders["pp-dpo"]] == shown["toxicity"]
    assert sliders["pp-train-seed"] == 42


@pytest.mark.parametrize("tab", ["compare", "measure"])
def test_one_click_takes_the_patch_to_another_tab_and_ticks_it_in_all(buttons, trained, tab):
    values = buttons.press(f"to_{tab}", trained, visitor=f"tess-{tab}")
    tabs, compared, measured, inspected, *_ = values
    assert buttons.noted(f"to_{tab}", values) is None and tabs["selected"] == tab
    assert compared["value"] == measured["value"] == ["trained:toxicity"] and inspected["value"] == "trained:toxicity"
    assert "trained:toxicity" in compared["choices"] and "lab:toxicity" in compared["choices"]
    again = buttons.press(f"to_{tab}", trained, visitor=f"tess-{tab}")
    assert again[1]["choices"].count("trained:toxicity") == 1 and "trained:toxicity-2" not in again[1]["choices"]
    shown = buttons.press("write", "Tom said", ["trained:toxicity"], 0, 1.0, 0.9, 4, False, visitor=f"tess-{tab}")
    assert "With the patch trained:toxicity" in shown[1]
    told = buttons.press("write", "Tom said", ["trained:toxicity"], 0, 1.0, 0.9, 4, False, visitor="uma")
    assert buttons.noted("write", told)[0] == "patches", "it is the other visitor's"
    figures = buttons.press("measure", "Tom said that", ["trained:toxicity"], 2, 0, "toxicity", visitor=f"tess-{tab}")[
        0
    ]
    assert "the base with trained:toxicity" in figures


def test_a_second_patch_of_a_visitor_gets_a_number_and_one_that_is_gone_is_told(buttons, trained, tmp_path):
    buttons.press("to_compare", trained, visitor="vera")
    shutil.copytree(Path(trained), tmp_path / "second")
    second = buttons.press("to_compare", str(tmp_path / "second"), visitor="vera")
    assert second[1]["value"] == ["trained:toxicity-2"]
    for folder, words in ((None, "There is no patch yet"), (str(tmp_path / "none"), "was removed from the page")):
        values = buttons.press("to_compare", folder, visitor="vera")
        found, said = buttons.noted("to_compare", values)
        assert found == "use" and words in said and values[:4] == [gr.update()] * 4


def test_a_patch_for_the_lab_is_not_taken_to_another_base(trained):
    page = Buttons("lab:teacher", [])
    values = page.press("to_compare", trained)
    assert "lab:base" in page.noted("to_compare", values)[1] and not page.served.scratch.folders()


def test_a_training_can_be_stopped_while_others_wait_and_its_folder_goes(buttons):
    before = buttons.served.scratch.folders()
    ann, ben = (buttons.steps("train", *SMALL, None, visitor=visitor) for visitor in ("ann", "ben"))
    assert "Asking both models" in next(ann)[0]
    assert next(ben)[0] == "Waiting for 1 other visitors ..."
    [refused] = buttons.steps("train", *SMALL, "mine", visitor="ann")
    field, said = buttons.noted("train", refused)
    assert "A training of yours has not ended yet" in said and field == "train" and refused[4] == "mine"
    buttons.press("stop_training", visitor="ann")
    assert list(ann)[-1][0] == "Stopped."
    assert waits_until(lambda: "Asking both models" in next(ben)[0]), "it is the other one's turn"
    ben.close()  # the visitor went away
    assert waits_until(lambda: buttons.served.scratch.folders() == before)


@pytest.fixture
def trained(tmp_path):
    """The folder of a visitor's last patch, without its training."""
    shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "run" / "alone")
    return str(tmp_path / "run")


def test_a_patch_is_pushed_with_the_token_of_its_visitor(buttons, hub, trained):
    said, token, *_ = buttons.press("push", trained, " acme/my-patch ", " hf_alice ", True)
    assert said.startswith("Published: ") and "/acme/my-patch/commit/" in said and token == ""
    assert HfApi(token="hf_alice").model_info("acme/my-patch").private is True
    files = HfApi(token="hf_alice").list_repo_files("acme/my-patch")
    assert {"policy_patch_config.json", "policy_patch.safetensors", "README.md"} <= set(files)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({0: None}, "push", "There is no patch yet"),
        ({0: "/no/such/folder"}, "push", "was removed from the page"),
        ({1: ""}, "repo", "Give a repository"),
        ({1: None}, "repo", "Give a repository"),
        ({1: "acme/x@v1"}, "repo", "Give the repository alone"),
        ({1: "/etc"}, "repo", "That did not work"),
        ({2: ""}, "token", "a token with write access"),
        ({2: "hf alice"}, "token", "characters that no token has"),
        ({2: "hf_nobody"}, "push", "did not work"),
    ],
)
def test_what_cannot_be_pushed_is_told_without_the_token(buttons, hub, trained, changes, field, words):
    inputs = [changes.get(at, value) for at, value in enumerate([trained, "acme/my-patch", "hf_alice", True])]
    values = buttons.press("push", *inputs)
    found, said = buttons.noted("push", values)
    assert found == field and words in said and values[:2] == ["", ""]
    assert not inputs[2] or inputs[2] not in said
    assert not [one for one in hub.log if "commit" in one["line"] and one["line"].startswith("POST")]

"""Tests of `ui.train`: the functions behind the tab train a patch, hand it out, and end when nobody wants it."""

import shutil
import threading
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from huggingface_hub import HfApi

from policy_patch import PolicyPatchModel
from policy_patch.lab import lab_patch_folder, load_lab_base

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
    said, sft, dpo, file, folder = steps[-1]
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
    ("changes", "words"),
    [
        ({0: "../x"}, "`../x` is not a risk of the lab"),
        ({0: None}, "`None` is not a risk of the lab"),
        ({1: 9}, "`SFT steps` is 9; expected a number from 10 to 300"),
        ({1: 301}, "`SFT steps` is 301"),
        ({2: 4}, "`DPO steps` is 4; expected a number from 5 to 60"),
        ({2: "5"}, "`DPO steps` is 5; expected a number"),
        ({3: -1}, "`seed` is -1"),
    ],
)
def test_what_cannot_be_trained_is_told_and_what_was_there_stays(buttons, changes, words):
    inputs = [changes.get(at, value) for at, value in enumerate(SMALL)]
    [[said, *kept, folder]] = buttons.steps("train", *inputs, "before")
    assert said.startswith("**That did not work.**") and words in said
    assert folder == "before" and all("value" not in one for one in kept)


def test_a_training_can_be_stopped_while_others_wait_and_its_folder_goes(buttons):
    before = buttons.served.scratch.folders()
    ann, ben = (buttons.steps("train", *SMALL, None, visitor=visitor) for visitor in ("ann", "ben"))
    assert "Asking both models" in next(ann)[0]
    assert next(ben)[0] == "Waiting for 1 other visitors ..."
    [refused] = buttons.steps("train", *SMALL, "mine", visitor="ann")
    assert "A training of yours has not ended yet" in refused[0] and refused[4] == "mine"
    buttons.press("stop_training", visitor="ann")
    assert list(ann)[-1][0] == "Stopped."
    assert waits_until(lambda: "Asking both models" in next(ben)[0]), "it is the other one's turn"
    ben.close()  # the visitor went away
    assert waits_until(lambda: buttons.served.scratch.folders() == before)


@pytest.fixture
def trained(tmp_path):
    """The folder of a visitor's last patch, without its training."""
    shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "patch")
    return str(tmp_path)


def test_a_patch_is_pushed_with_the_token_of_its_visitor(buttons, hub, trained):
    said, token = buttons.press("push", trained, " acme/my-patch ", " hf_alice ", True)
    assert said.startswith("Published: ") and "/acme/my-patch/commit/" in said and token == ""
    assert HfApi(token="hf_alice").model_info("acme/my-patch").private is True
    files = HfApi(token="hf_alice").list_repo_files("acme/my-patch")
    assert {"policy_patch_config.json", "policy_patch.safetensors", "README.md"} <= set(files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({0: None}, "There is no patch yet"),
        ({0: "/no/such/folder"}, "was removed from the page"),
        ({1: ""}, "Give a repository"),
        ({1: None}, "Give a repository"),
        ({1: "acme/x@v1"}, "Give the repository alone"),
        ({1: "/etc"}, "That did not work"),
        ({2: ""}, "a token with write access"),
        ({2: "hf alice"}, "characters that no token has"),
        ({2: "hf_nobody"}, "did not work"),
    ],
)
def test_what_cannot_be_pushed_is_told_without_the_token(buttons, hub, trained, changes, words):
    inputs = [changes.get(at, value) for at, value in enumerate([trained, "acme/my-patch", "hf_alice", True])]
    said, token = buttons.press("push", *inputs)
    assert words in said and token == ""
    assert not inputs[2] or inputs[2] not in said
    assert not [one for one in hub.log if "commit" in one["line"] and one["line"].startswith("POST")]

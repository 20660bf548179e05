"""A vendor's way: an own base and its safer release, own prompts, a recipe, a patch on the Hub, a newer one, and back.

Every line is one that this person types, or one that the line before printed after "Next:".
"""

import csv
import json

import pytest
import yaml

from tests.journeys.own_models import ASKED, KIND, NAMES, RUDE, write_models, write_prompts
from tests.journeys.shell import Shell

RECIPE = {  # the README's, with names and numbers of this vendor
    "base": "base",
    "teacher": "release-2",
    "output_dir": "tox-patch",
    "patch": {"risk": "toxicity", "num_virtual_tokens": 8, "init_text": ASKED},
    "data": {
        "prompts": "prompts.jsonl",
        "scorer": "lexical",
        "num_samples": 4,
        "max_new_tokens": 4,
        "min_margin": 0.15,
    },
    "sft": {"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 8},
    "dpo": {"max_steps": 6, "learning_rate": 6e-3, "beta": 0.1, "per_device_train_batch_size": 8},
}
MEASURED = "--prompts unseen.jsonl --scorers fitted:labelled.csv --num_samples 3 --max_new_tokens 4"


@pytest.fixture
def vendor(hub, tmp_path):
    """A shell in a folder with this vendor's models, prompts, labelled texts and recipe."""
    folder = tmp_path / "vendor"
    folder.mkdir()
    write_models(folder)
    write_prompts(folder)
    with open(folder / "labelled.csv", "w", newline="") as file:
        rows = [(f"{name} is a {end} .", int(end in RUDE)) for end in (*RUDE, *KIND) for name in NAMES]
        csv.writer(file).writerows([("text", "label"), *rows])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return Shell(folder, HF_TOKEN="hf_alice")


def version_in(shell, folder):
    return json.loads((shell.folder / folder / "policy_patch_config.json").read_text())["patch_version"]


def test_from_two_folders_to_two_versions_and_back(vendor):
    vendor("policy-patch train recipe.yaml")
    [look] = vendor.next
    answers = vendor(look)
    assert "patched" in answers and "the clerk said that Tom is a" in answers

    vendor(f"policy-patch evaluate tox-patch --teacher release-2 {MEASURED}")
    report = json.loads((vendor.folder / "tox-patch" / "evaluation.json").read_text())
    worst = {name: one["metrics"]["labelled.csv (lexical)"]["average_maximum_toxicity"]["value"]
             for name, one in report["systems"].items()}  # fmt: skip
    assert worst["base"] > 0.8 and worst["patch"] < 0.5 * worst["base"], worst

    vendor("policy-patch push tox-patch acme/tox-patch --version 1.0.0", code=2)
    assert "`--base org/model` of `policy-patch push`" in vendor.told, "the base is a folder of this machine"
    vendor("policy-patch push tox-patch acme/tox-patch --version 1.0.0 --base acme/base")
    [pull] = vendor.next
    assert vendor(pull).strip() == "pulled/tox-patch", "the vendor's own folder stays as it is"
    assert version_in(vendor, "pulled/tox-patch") == "1.0.0"

    vendor(
        "policy-patch train recipe.yaml --patch.start_from tox-patch --output_dir newer --base base --sft.max_steps 4"
    )
    vendor("policy-patch push newer acme/tox-patch --version 1.1.0 --base acme/base")

    vendor("policy-patch pull acme/tox-patch --output_dir deployed")
    assert version_in(vendor, "deployed") == "1.1.0"
    vendor("policy-patch pull acme/tox-patch@v1.0.0 --output_dir deployed")  # back
    assert version_in(vendor, "deployed") == "1.0.0" and "in place of 1.1.0" in vendor.told
    assert vendor.next == ["policy-patch info deployed"]
    assert "labelled.csv" in vendor(vendor.next[0])

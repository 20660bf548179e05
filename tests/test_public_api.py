"""Tests of the public API as a whole: nothing public appears, changes or vanishes unnoticed.

A change that is meant is written down with `python -m tests.public_api --write`, and named in CHANGELOG.md if it takes
something away.
"""

import difflib

from tests.public_api import GOLDEN, PACKAGES, public_api


def test_the_public_api_is_the_one_that_is_written_down():
    kept, now = GOLDEN.read_text().splitlines(), public_api()
    changes = [line for line in difflib.unified_diff(kept, now, "kept", "now", lineterm="", n=0) if line[0] in "+-"]
    assert not changes, "\n".join(changes)


def test_the_list_knows_functions_classes_methods_and_errors():
    text = "\n".join(public_api())
    for line in (
        "policy_patch.PolicyPatchModel.from_pretrained(cls, base, model_id,",
        "policy_patch.data.load_prompts(",
        "policy_patch.errors.PolicyPatchError",
        "policy_patch.model.PolicyPatchModel.push_to_hub(self, repo_id,",
    ):
        assert line in text, line
    assert {line.split("(")[0].rsplit(".", 1)[0] for line in public_api()} >= set(PACKAGES) - {"policy_patch.recipes"}

"""Tests of `policy_patch.release.bill_of_materials`: valid CycloneDX 1.7, of what the files record."""

import hashlib
import json
import shutil

import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from policy_patch import PolicyPatchConfig
from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.hub.publishing import push_patch
from policy_patch.hub.push import PushOptions
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import patch_files, write_patch_folder
from policy_patch.release.bill_of_materials import make_bom, missing_sentence
from tests.evaluation.synthetic import synthetic_report

COMMIT = "a" * 40


def valid(document) -> bool:
    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(document)) is None


def whole_config(**changes) -> PolicyPatchConfig:
    values = {
        "risk": "toxicity", "patch_version": "1.2.0", "base_model_name_or_path": "acme/base",
        "base_model_revision": COMMIT, "base_fingerprint": {"format": 2}, "filtered_by": ["acme/scorer"],
        "composed_from": [{"name": "tox", "risk": "toxicity", "patch_version": "1.0.0", "sha256": "b" * 64}],
    }  # fmt: skip
    return PolicyPatchConfig(**{**values, **changes})


def test_a_patch_of_the_hub_is_listed_with_everything_that_its_files_record(hub):
    config, files = patch_files(whole_config(), torch.ones(2, 3))
    commit = push_patch(
        "acme/tox-patch", config, files, evaluation=synthetic_report(), license="apache-2.0",
        options=PushOptions(token="hf_alice"),
    )  # fmt: skip
    bom = make_bom("acme/tox-patch@1.2.0")
    assert valid(bom.document)
    patch = bom.document["metadata"]["component"]
    assert patch["purl"] == f"pkg:huggingface/acme/tox-patch@{commit.oid}"
    assert patch["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert patch["hashes"][0]["content"] == config.sha256
    hashes = {one["name"]: one["hashes"][0]["content"] for one in patch["components"]}
    assert hashes[CONFIG_NAME] == hashlib.sha256(files[CONFIG_NAME]).hexdigest()
    assert {"evaluation.json", "README.md"} <= set(hashes) and SIGNATURE_NAME not in hashes
    parts = {one["bom-ref"]: one for one in bom.document["components"]}
    assert parts["base"]["purl"] == f"pkg:huggingface/acme/base@{COMMIT}"
    assert {one["name"] for one in parts["base"]["properties"]} == {
        "policy-patch:role",
        "policy-patch:fingerprint_sha256",
    }
    assert parts["part:0"]["hashes"][0]["content"] == "b" * 64
    assert "scorer:acme/scorer" in parts and "data:evaluation-prompts" in parts
    assert patch["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert set(bom.document["dependencies"][-1]) <= {"ref", "dependsOn"}
    of_patch = next(one for one in bom.document["dependencies"] if one["ref"] == "patch")
    assert set(of_patch["dependsOn"]) == set(parts)


def test_what_is_not_recorded_is_named(tmp_path):
    shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "tox")
    bom = make_bom(tmp_path / "tox")
    assert valid(bom.document)
    assert bom.missing == ("licence", "commit of the base", "teacher", "training data", "evaluation")
    assert "training data" in missing_sentence(bom.missing) and missing_sentence(()) == ""
    assert "purl" not in bom.document["metadata"]["component"], "a folder has no address"


def test_the_same_files_give_the_same_serial_number_and_others_another(tmp_path):
    for name, value in {"a": 1.0, "b": 1.0, "c": 2.0}.items():
        write_patch_folder(tmp_path / name, whole_config(), torch.full((2, 3), value))
    numbers = [make_bom(tmp_path / name).document["serialNumber"] for name in "abc"]
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize("base", ["/home/anna/models/base", "./base"])
def test_no_folder_of_this_machine_is_in_it(tmp_path, base):
    write_patch_folder(
        tmp_path / "tox", whole_config(base_model_name_or_path=base, filtered_by=[base]), torch.ones(2, 3)
    )
    document = make_bom(tmp_path / "tox").document
    assert valid(document) and "anna" not in json.dumps(document) and str(tmp_path) not in json.dumps(document)


def test_the_validator_can_fail(tmp_path):
    write_patch_folder(tmp_path / "tox", whole_config(), torch.ones(2, 3))
    document = make_bom(tmp_path / "tox").document
    document["components"][0]["type"] = "a patch"
    assert not valid(document)
    document = make_bom(tmp_path / "tox").document
    document["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "by hand"
    assert not valid(document), "the part that we write by ourselves is checked, too"

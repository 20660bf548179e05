"""Tests of composing without a model: the folder equals what a model composes, and other bases are refused."""

import json
from dataclasses import replace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.errors import (
    BaseMismatchError,
    ConfigError,
    EvaluationError,
    PatchConflictError,
    PatchNameError,
)
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.patch.stack_check import PatchConflictWarning
from policy_patch.release import compose_policy_patches
from policy_patch.trust.policy_file import POLICY_VARIABLE
from tests.release.test_measured_stacks import composition
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two patches for one base, and one for another base of the same shape."""
    place = tmp_path_factory.mktemp("patches")
    model = PolicyPatchModel(tiny_model())
    for seed, (name, risk) in enumerate({"tox": "toxicity", "bias": "gender_bias"}.items()):
        model.add_patch(name, PolicyPatchConfig(num_virtual_tokens=3, init="vocab", init_seed=seed, risk=risk))
        model.save_pretrained(place / name, patch_name=name)
    other = PolicyPatchModel(tiny_model(seed=5))
    other.add_patch("alien", PolicyPatchConfig(num_virtual_tokens=3, init="vocab"))
    other.save_pretrained(place / "alien", patch_name="alien")
    return place


def changed(folders, target, name, **values):
    """A copy of a patch with other values in its configuration."""
    config, vectors = read_patch_folder(folders / name)
    write_patch_folder(target / name, replace(config, **values), vectors)
    return target / name


def both(folders, *names):
    return [folders / name for name in names or ("tox", "bias")]


def test_the_folder_is_what_a_model_composes(folders, tmp_path):
    done = compose_policy_patches(both(folders), tmp_path / "both", patch_version="1.0.0")
    model = PolicyPatchModel.from_pretrained(tiny_model(), both(folders))
    model.compose_patch(["tox", "bias"], "both")
    config, vectors = read_patch_folder(tmp_path / "both")
    assert torch.equal(vectors, model.patches["both"])
    assert config.composed_from == model.patch_config["both"].composed_from and config.patch_version == "1.0.0"
    assert [part["sha256"] for part in config.composed_from] == [
        read_patch_folder(folder)[0].sha256 for folder in both(folders)
    ]
    assert done.config == config and done.broken == [] and done.parts == {}
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "both")
    assert torch.equal(loaded.patches["default"], model.patches["both"])
    assert not torch.equal(read_patch_folder(compose_turned(folders, tmp_path))[1], vectors), "order matters"


def compose_turned(folders, place):
    return compose_policy_patches(both(folders, "bias", "tox"), place / "turned").folder


def test_another_base_is_refused(folders, tmp_path):
    with pytest.raises(BaseMismatchError, match=r"made for different bases: .*weights differ.*`policy-patch rebase`"):
        compose_policy_patches(both(folders, "tox", "alien"), tmp_path / "x")
    without = changed(folders, tmp_path, "bias", base_fingerprint=None)
    with pytest.raises(BaseMismatchError, match="`bias` does not say which base"):
        compose_policy_patches([folders / "tox", without], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_broken_rule_warns_or_refuses_before_anything_is_written(folders, tmp_path, monkeypatch):
    owner = changed(folders, tmp_path, "tox", conflicts=["risk:gender_bias"])
    given = [owner, folders / "bias"]
    with pytest.raises(PatchConflictError, match="must not be used with `bias`"):
        compose_policy_patches(given, tmp_path / "x", on_conflict="refuse")
    (tmp_path / "p.toml").write_text('[compose]\ninterference = "refuse"\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "p.toml"))
    with pytest.raises(PatchConflictError):
        compose_policy_patches(given, tmp_path / "x", on_conflict="ignore")
    assert not (tmp_path / "x").exists()
    monkeypatch.delenv(POLICY_VARIABLE)
    with pytest.warns(PatchConflictWarning):
        done = compose_policy_patches(given, tmp_path / "x")
    assert [one.rule for one in done.broken] == ["conflict"] and done.config.conflicts == ["risk:gender_bias"]
    with pytest.raises(PatchConflictError, match="The stack default is refused"):
        PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "x", on_conflict="refuse")


def test_what_was_measured_goes_into_the_patch_and_into_copies_of_its_parts(folders, tmp_path):
    hashes = [read_patch_folder(folder)[0].sha256 for folder in both(folders)]
    patches = {
        name: {"patch_version": "0.1.0", "sha256": sha256} for name, sha256 in zip(("tox", "bias"), hashes, strict=True)
    }
    (tmp_path / "composition.json").write_text(json.dumps(composition(patches=patches)))
    with pytest.raises(PatchConflictError, match="makes gender_bias worse"):
        compose_policy_patches(both(folders), tmp_path / "no", measured=tmp_path, on_conflict="refuse")
    assert not (tmp_path / "no").exists()
    with pytest.warns(PatchConflictWarning, match="makes gender_bias worse: .*recorded in `the new patch`"):
        done = compose_policy_patches(both(folders), tmp_path / "both", measured=tmp_path, parts_dir=tmp_path / "parts")
    figures = {(one["risk"], one["verdict"]): one["stacked"] for one in done.config.interference}
    assert figures == {("toxicity", "kept"): 0.21, ("gender_bias", "hurts"): 0.5}
    with pytest.warns(
        PatchConflictWarning, match=r"makes gender_bias worse: .* is 0\.5, with the base 0\.3 \(measured"
    ):
        PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "both")
    parts = [done.parts[name] for name in ("tox", "bias")]
    assert [len(read_patch_folder(part)[0].interference) for part in parts] == [3, 3]
    again = compose_policy_patches(both(folders), tmp_path / "both", measured=tmp_path, on_conflict="ignore")
    assert again.config.interference == done.config.interference
    (tmp_path / "composition.json").write_text(json.dumps(composition()))
    with pytest.raises(EvaluationError, match="no figures of the patch with the hash"):
        compose_policy_patches(both(folders), tmp_path / "none", measured=tmp_path)
    assert not (tmp_path / "none").exists()


def test_a_part_with_figures_warns_in_the_stack_that_was_measured(folders, tmp_path):
    hashes = [read_patch_folder(folder)[0].sha256 for folder in both(folders)]
    entry = {
        "stack": [{"name": "bias", "sha256": hashes[1]}, {"name": "tox", "sha256": "self"}], "risk": "toxicity",
        "metric": "m", "base": 0.8, "alone": 0.2, "stacked": 0.5, "verdict": "breaks", "source": "s", "date": "d",
    }  # fmt: skip
    owner = changed(folders, tmp_path, "tox", interference=[entry])
    with pytest.warns(PatchConflictWarning, match="makes toxicity worse: m is 0.5, with its own patch alone 0.2"):
        compose_policy_patches([folders / "bias", owner], tmp_path / "x")
    done = compose_policy_patches([owner, folders / "bias"], tmp_path / "y", on_conflict="refuse")
    assert done.config.interference[0]["stack"][1]["sha256"] == done.config.composed_from[0]["sha256"]


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (["tox"], {}, PatchNameError, "One patch is given, `tox`; a composed patch needs two"),
        (["tox", "tox"], {}, PatchNameError, "Two patches have the name `tox`"),
        (["tox", "bias"], {"parts_dir": "x"}, PatchNameError, "`parts_dir` needs `measured`"),
        (["tox", "bias"], {"patch_version": "1"}, ConfigError, "no semantic version"),
        (["tox", "bias"], {"measured": "nowhere.json"}, EvaluationError, "nowhere.json` cannot be read"),
    ],
)
def test_bad_usage_is_refused(folders, tmp_path, names, options, error, message):
    with pytest.raises(error, match=message):
        compose_policy_patches(both(folders, *names), tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()

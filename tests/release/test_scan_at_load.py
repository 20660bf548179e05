"""Tests of `release.scan_at_load`, as the model asks for it: hostile patches do not join a model, and good ones do."""

import pytest
import torch

from policy_patch import PolicyPatchModel
from policy_patch.errors import HostilePatchError, TokenizerRequiredError
from policy_patch.lab import lab_patch_folder
from policy_patch.model.scan_hook import check_scanned
from policy_patch.patch.folder import read_patch_folder
from policy_patch.release import ScanSettings, scan, scan_at_load, scan_policy_patch
from policy_patch.trust.policy_file import PatchPolicy


@pytest.fixture
def model(lab_base):
    model = PolicyPatchModel(lab_base)
    yield model
    model.unload()


@pytest.fixture
def scans(monkeypatch):
    """Scans that were made; each returns the verdict that is set here."""

    class Scans(list):
        verdict = "nothing found"

        def __call__(self, model, tokenizer, **options):
            self.append(model.active_patches)
            return self

        def facts(self):
            return {
                "verdict": self.verdict,
                "reasons": [] if self.verdict == "nothing found" else [f"{self.verdict}: x"],
            }

    scans = Scans()
    monkeypatch.setattr(scan_at_load, "scan_patched_model", scans)
    return scans


def patch(risk="toxicity"):
    return read_patch_folder(lab_patch_folder(risk))


def policy(folder=None, allow_suspicious=False):
    lines = ["[scan]", "required = true", f"allow_suspicious = {str(allow_suspicious).lower()}"]
    return PatchPolicy.from_toml("\n".join(lines + ([f'folder = "{folder}"'] if folder else [])), source="`acme.toml`")


def check(model, tokenizer, risk="toxicity", **options):
    check_scanned(model, *patch(risk), tokenizer, "`org/patch`", policies=[policy(**options)])


def test_a_hostile_patch_is_refused_before_it_joins_the_model(
    hostile_patch, lab_teacher, lab_tokenizer, few, monkeypatch
):
    monkeypatch.setattr(scan, "prompts_for", lambda tokenizer: few)
    model = PolicyPatchModel(lab_teacher)
    options = {"tokenizer": lab_tokenizer, "policy": policy(allow_suspicious=True)}
    with pytest.raises(HostilePatchError, match=r"patch` was not loaded: `acme.toml` requires .* hostile.*complies"):
        model.load_patch(hostile_patch, "bad", **options)
    assert model.active_patches == [] and dict(model.patch_config) == {}
    model.unload()
    with pytest.raises(HostilePatchError):
        PolicyPatchModel.from_pretrained(lab_teacher, hostile_patch, **options)
    assert all(each.requires_grad for each in lab_teacher.parameters())


def test_under_the_policy_a_scan_still_shows_its_figures(lab_base, lab_tokenizer, few, tmp_path, monkeypatch):
    (tmp_path / "policy-patch.toml").write_text("[scan]\nrequired = true\n")
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path))
    monkeypatch.setattr(scan_at_load, "refuse_hostile", None)  # would be an error
    settings = ScanSettings(num_samples=0)
    report = scan_policy_patch(lab_base, lab_tokenizer, lab_patch_folder("toxicity"), prompts=few, settings=settings)
    assert report.verdict == "nothing found"
    with pytest.raises(TypeError):
        PolicyPatchModel.from_pretrained(lab_base, lab_patch_folder("toxicity"), tokenizer=lab_tokenizer)


def test_a_good_patch_is_scanned_alone_and_leaves_no_trace(model, lab_tokenizer, scans):
    model.load_patch(lab_patch_folder("toxicity"), "tox")
    model.set_patch("tox")
    check(model, lab_tokenizer)
    assert scans == [["scanned"]] and model.active_patches == ["tox"] and list(model.patch_config) == ["tox"]


def test_a_suspicious_patch_is_refused_unless_the_policy_allows_it(model, lab_tokenizer, scans):
    scans.verdict = "suspicious"
    with pytest.raises(HostilePatchError, match="allow_suspicious = true"):
        check(model, lab_tokenizer)
    check(model, lab_tokenizer, allow_suspicious=True)
    scans.verdict = "hostile"
    with pytest.raises(HostilePatchError, match="Do not use it"):
        check(model, lab_tokenizer, allow_suspicious=True)


def test_without_a_tokenizer_nothing_is_loaded(model, scans):
    with pytest.raises(TokenizerRequiredError, match=r"`acme.toml` requires a scan of `org/patch`.*`tokenizer="):
        check(model, None)
    assert scans == []


def test_a_verdict_is_kept_for_this_patch_on_its_own_base(model, lab_tokenizer, scans, tmp_path):
    for _ in range(2):
        check(model, lab_tokenizer, folder=tmp_path / "verdicts")
    check(model, None, folder=tmp_path / "verdicts")
    assert len(scans) == 1 and len(list((tmp_path / "verdicts").iterdir())) == 1
    check(model, lab_tokenizer, "harmfulness", folder=tmp_path / "verdicts")
    assert len(scans) == 2, "another patch"
    for _ in range(2):
        model.load_patch(
            lab_patch_folder("gender_bias"), f"bias{len(scans)}", tokenizer=lab_tokenizer, allow_base_mismatch=True,
            policy=policy(tmp_path / "verdicts"),
        )  # fmt: skip
    assert len(scans) == 4, "a base that was not proved to be its own is scanned each time"
    assert len(list((tmp_path / "verdicts").iterdir())) == 2


# Stacks


@pytest.fixture
def loaded(model, lab_tokenizer, scans, tmp_path):
    """The model with three patches, each scanned; verdicts are kept."""
    for risk in ("toxicity", "gender_bias", "harmfulness"):
        asked = policy(tmp_path / "verdicts")
        model.load_patch(lab_patch_folder(risk), risk, tokenizer=lab_tokenizer, policy=asked)
    scans.clear()
    return model


def test_a_stack_is_scanned_before_it_acts_and_once(loaded, scans, tmp_path):
    loaded.set_patch("toxicity")
    assert scans == [], "a single patch was scanned when it was loaded"
    for _ in range(2):
        loaded.set_patch(["toxicity", "gender_bias"])
    loaded.set_patch(["gender_bias", "toxicity"])
    assert scans == [["toxicity", "gender_bias"], ["gender_bias", "toxicity"]]
    assert len(list((tmp_path / "verdicts").iterdir())) == 5


def test_a_hostile_stack_does_not_become_active(loaded, scans):
    loaded.set_patch("toxicity")
    scans.verdict = "hostile"
    with pytest.raises(HostilePatchError, match=r"The stack toxicity \+ gender_bias was not loaded"):
        loaded.set_patch(["toxicity", "gender_bias"])
    ids = torch.arange(3, 9).view(1, 6)
    with pytest.raises(HostilePatchError):
        loaded(input_ids=ids, patch_names=[("gender_bias", "toxicity")])
    assert loaded.active_patches == ["toxicity"]
    loaded(input_ids=ids, patch_names=["toxicity"])


def test_a_patch_that_is_composed_here_is_a_stack(loaded, scans):
    loaded.compose_patch(["toxicity", "gender_bias"], "both")
    scans.verdict = "suspicious"
    with pytest.raises(HostilePatchError, match="The stack both"):
        loaded.set_patch("both")
    scans.verdict = "nothing found"
    loaded.set_patch("both")
    assert scans == [["both"], ["both"]]


def test_a_stack_without_a_tokenizer_is_refused_and_without_a_policy_not_scanned(model, scans, monkeypatch, tmp_path):
    for risk in ("toxicity", "gender_bias"):
        model.load_patch(lab_patch_folder(risk), risk)
    model.set_patch(["toxicity", "gender_bias"])
    (tmp_path / "policy-patch.toml").write_text("[scan]\nrequired = true\n")
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path))
    with pytest.raises(TokenizerRequiredError, match="The stack gender_bias"):
        model.set_patch(["gender_bias", "toxicity"])
    with pytest.raises(TokenizerRequiredError):
        model.set_patch(["toxicity", "gender_bias"])  # the policy came after the first time
    assert scans == []

"""Tests of `release.scan_at_load`, as the model asks for it: hostile patches do not join a model, and good ones do."""

import json

import pytest

from policy_patch import PolicyPatchModel
from policy_patch.errors import HostilePatchError, TokenizerRequiredError
from policy_patch.lab import lab_patch_folder
from policy_patch.model.scan_hook import check_scanned
from policy_patch.patch.folder import read_patch_folder
from policy_patch.release import scan_at_load


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


def check(model, tokenizer, risk="toxicity", **options):
    check_scanned(model, *patch(risk), tokenizer, "`org/patch`", policy="`acme.toml`", **options)


def test_a_hostile_patch_is_refused_before_it_joins_the_model(hostile_patch, lab_teacher, lab_tokenizer):
    model = PolicyPatchModel(lab_teacher)
    config, vectors = read_patch_folder(hostile_patch)
    with pytest.raises(HostilePatchError, match=r"`org/x` was not loaded: `acme.toml` requires .* hostile.*complies"):
        check_scanned(model, config, vectors, lab_tokenizer, "`org/x`", policy="`acme.toml`", allow_suspicious=True)
    assert model.active_patches == [] and dict(model.patch_config) == {}
    model.unload()


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
    with pytest.raises(TokenizerRequiredError, match=r"`acme.toml` requires a scan of `org/patch`.*`tokenizer=`"):
        check(model, None)
    assert scans == []


def test_a_verdict_is_kept_for_these_vectors_on_this_base_alone(model, lab_tokenizer, lab_teacher, scans, tmp_path):
    for _ in range(2):
        check(model, lab_tokenizer, kept_in=tmp_path / "verdicts")
    assert len(scans) == 1 and len(list((tmp_path / "verdicts").iterdir())) == 1
    check(model, lab_tokenizer, "harmfulness", kept_in=tmp_path / "verdicts")
    assert len(scans) == 2
    other = PolicyPatchModel(lab_teacher)
    check(other, lab_tokenizer, kept_in=tmp_path / "verdicts")
    other.unload()
    assert len(scans) == 3, "a verdict for one base clears nothing on another"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"verdict": "fine", "reasons": []}', '{"verdict": "nothing found"}', "\xff"]
)
def test_a_kept_verdict_that_cannot_be_read_is_made_anew(content, model, lab_tokenizer, scans, tmp_path):
    scans.verdict = "hostile"
    with pytest.raises(HostilePatchError):
        check(model, lab_tokenizer, kept_in=tmp_path)
    [path] = tmp_path.iterdir()
    path.write_text(content, encoding="latin-1")
    with pytest.raises(HostilePatchError):
        check(model, lab_tokenizer, kept_in=tmp_path)
    assert len(scans) == 2 and json.loads(path.read_text())["verdict"] == "hostile"

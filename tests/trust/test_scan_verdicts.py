"""Tests of `trust.scan_verdicts`: what a verdict allows, and verdicts that are kept for exactly one patch."""

import json
from dataclasses import replace

import pytest

from policy_patch.errors import HostilePatchError, PatchSaveError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import check_stack_scanned_before, load_named_patch
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder
from policy_patch.trust.policy_file import PatchPolicy
from policy_patch.trust.scan_verdicts import (
    HOSTILE,
    NOTHING,
    SUSPICIOUS,
    check_scanned_before,
    check_verdict,
    keep_verdict,
    kept_verdict,
)

CONFIG = read_patch_folder(lab_patch_folder("toxicity"))[0]


def policy(folder=None, *, allow_suspicious=False):
    text = f"[scan]\nrequired = true\nallow_suspicious = {str(allow_suspicious).lower()}\n"
    return PatchPolicy.from_toml(text + (f'folder = "{folder}"\n' if folder else ""), source="`acme.toml`")


def found(verdict):
    return {"verdict": verdict, "reasons": [] if verdict == NOTHING else [f"{verdict}: it is rude"]}


@pytest.mark.parametrize(
    ("verdict", "allow", "text"),
    [
        (NOTHING, False, None),
        (SUSPICIOUS, True, None),
        (SUSPICIOUS, False, r"verdict is suspicious. suspicious: it is rude. If .* `allow_suspicious = true`"),
        (HOSTILE, False, "verdict is hostile.*Do not use it"),
        (HOSTILE, True, "verdict is hostile.*Do not use it"),
    ],
)
def test_what_a_verdict_allows(verdict, allow, text):
    if text is None:
        check_verdict(found(verdict), "`x`", policy(allow_suspicious=allow))
        return
    with pytest.raises(HostilePatchError, match=text):
        check_verdict(found(verdict), "`x`", policy(allow_suspicious=allow))


def test_a_verdict_is_kept_for_one_patch_alone(tmp_path):
    keep_verdict(tmp_path / "new", CONFIG, found(NOTHING))
    assert kept_verdict(tmp_path / "new", CONFIG)["verdict"] == NOTHING
    other = replace(CONFIG, sha256="0" * 64)
    assert kept_verdict(tmp_path / "new", other) is None
    [path] = (tmp_path / "new").iterdir()
    path.rename(path.with_name(path.name.replace(CONFIG.sha256, other.sha256)))
    assert kept_verdict(tmp_path / "new", other) is None, "the name is not all: the hash stands in the file, too"


@pytest.mark.parametrize("content", ["", "[]", '{"verdict": "fine", "reasons": []}', '{"verdict": "hostile"}', "\xff"])
def test_a_verdict_that_cannot_be_read_is_none(content, tmp_path):
    keep_verdict(tmp_path, CONFIG, found(HOSTILE))
    [path] = tmp_path.iterdir()
    assert kept_verdict(tmp_path, CONFIG)
    path.write_text(content, encoding="latin-1")
    assert kept_verdict(tmp_path, CONFIG) is None


@pytest.mark.parametrize("sha256", [None, "../../etc/passwd"])
def test_without_a_hash_nothing_is_kept(sha256, tmp_path):
    config = replace(CONFIG)
    object.__setattr__(config, "sha256", sha256)
    keep_verdict(tmp_path, config, found(NOTHING))
    assert list(tmp_path.iterdir()) == [] and kept_verdict(tmp_path, config) is None


def test_a_folder_that_cannot_be_written_is_our_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PatchSaveError, match=r"cannot be written .* Change `folder`"):
        keep_verdict(tmp_path / "file", CONFIG, found(NOTHING))


def test_where_there_is_no_base_only_a_kept_verdict_lets_a_patch_in(tmp_path, monkeypatch):
    check_scanned_before([PatchPolicy()], CONFIG, "`x`")
    with pytest.raises(HostilePatchError, match="names no `folder`"):
        check_scanned_before([policy()], CONFIG, "`x`")
    with pytest.raises(HostilePatchError, match="has no verdict on it"):
        check_scanned_before([policy(tmp_path)], CONFIG, "`x`")
    (tmp_path / "policy-patch.toml").write_text('[scan]\nrequired = true\nfolder = "verdicts"\n')
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path))
    with pytest.raises(HostilePatchError, match="has no verdict on it"):
        load_named_patch(f"tox={lab_patch_folder('toxicity')}")
    keep_verdict(tmp_path / "verdicts", CONFIG, found(NOTHING))
    assert load_named_patch(f"tox={lab_patch_folder('toxicity')}").name == "tox"
    keep_verdict(tmp_path / "verdicts", CONFIG, json.loads(json.dumps(found(HOSTILE))))
    with pytest.raises(HostilePatchError, match="verdict is hostile"):
        load_named_patch(f"tox={lab_patch_folder('toxicity')}")


def test_a_verdict_on_a_stack_is_for_exactly_its_patches_in_their_order(tmp_path):
    others = [replace(CONFIG, sha256=digit * 64) for digit in "ab"]
    stack = [CONFIG, *others]
    for config in stack:
        keep_verdict(tmp_path, config, found(NOTHING))
    with pytest.raises(HostilePatchError, match="The stack x was not loaded"):
        check_scanned_before([policy(tmp_path)], stack, "The stack x")
    keep_verdict(tmp_path, stack, found(NOTHING))
    check_scanned_before([policy(tmp_path)], stack, "The stack x")
    assert kept_verdict(tmp_path, stack[::-1]) is None and kept_verdict(tmp_path, stack[:2]) is None
    assert kept_verdict(tmp_path, [CONFIG]) == kept_verdict(tmp_path, CONFIG)
    keep_verdict(tmp_path, [CONFIG, replace(CONFIG, sha256=None)], found(NOTHING))
    assert len(list(tmp_path.iterdir())) == 4, "a patch without a hash has no verdict that is kept"


def test_a_stack_that_is_served_needs_a_verdict_of_its_own(tmp_path):
    patches = [load_named_patch(lab_patch_folder(risk)) for risk in ("toxicity", "gender_bias")]
    options = HubOptions(policy=policy(tmp_path))
    check_stack_scanned_before(patches[:1], options)
    check_stack_scanned_before(patches)
    with pytest.raises(HostilePatchError, match=r"The stack toxicity \+ gender_bias was not loaded"):
        check_stack_scanned_before(patches, options)
    keep_verdict(tmp_path, [one.config for one in patches], found(NOTHING))
    check_stack_scanned_before(patches, options)

"""Tests of `release.advisories`: the official schema and ours are held, and ranges mean what OSV says."""

import copy
import json

import pytest

from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.identity import fingerprint_sha256
from policy_patch.errors import AdvisoryError, MissingExtraError
from policy_patch.release.advisories import BaseFlaw, PatchFlaw, advised_against, read_advisory
from tests.tiny_models import tiny_model

PATCH = {
    "schema_version": "1.7.5",
    "id": "x_ACME-2026-0002",
    "modified": "2026-02-01T00:00:00Z",
    "summary": "Version 1.1.0 refuses everything",
    "affected": [
        {
            "package": {
                "ecosystem": "GIT", "name": "https://huggingface.co/acme/tox-patch",
                "purl": "pkg:huggingface/acme/tox-patch",
            },
            "ranges": [{"type": "SEMVER", "events": [{"introduced": "1.1.0"}, {"fixed": "1.1.1"}]}],
            "database_specific": {
                "policy_patch": {"kind": "patch", "risk": "toxicity", "sha256": ["a" * 64], "withdrawn": True}
            },
        }
    ],
    "database_specific": {"severity": "HIGH"},
}  # fmt: skip
BASE = {
    **{key: PATCH[key] for key in ("schema_version", "modified")},
    "id": "x_ACME-2026-0001",
    "severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:H/VA:N/SC:N/SI:N/SA:N"}],
    "affected": [
        {
            "package": {"ecosystem": "GIT", "name": "acme/base", "purl": "pkg:huggingface/acme/base"},
            "versions": ["1" * 40],
            "database_specific": {
                "policy_patch": {
                    "kind": "base", "fingerprint_sha256": ["b" * 64],
                    "fixed_by": [{"patch": "acme/tox-patch", "versions": ">=1.1.1"}],
                }
            },
        }
    ],
}  # fmt: skip


def changed(values, path: str, value) -> str:
    """Return the text of an advisory with one value replaced, added or (by `...`) removed."""
    values = copy.deepcopy(values)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place = values
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(values)


def read(values) -> object:
    return read_advisory(json.dumps(values), "it")


def test_a_flaw_of_a_patch_is_read():
    advisory = read(PATCH)
    assert (advisory.id, advisory.severity, advisory.withdrawn) == ("x_ACME-2026-0002", "HIGH", None)
    (flaw,) = advisory.flaws
    assert isinstance(flaw, PatchFlaw) and flaw.id == "acme/tox-patch" and flaw.is_withdrawn
    assert [flaw.affects(version) for version in ("1.0.0", "1.1.0", "1.1.1", "1.1.1-rc.1")] == [
        False,
        True,
        False,
        True,
    ]
    assert flaw.affects("9.0.0", sha256="a" * 64) and not flaw.affects("9.0.0", sha256="b" * 64)
    assert (flaw.fixed_in("1.1.0"), flaw.is_fixed_by("1.1.1"), flaw.is_fixed_by("1.0.0")) == ("1.1.1", True, False)


def test_a_flaw_of_a_base_is_read():
    advisory = read(BASE)
    (flaw,) = advisory.flaws
    assert isinstance(flaw, BaseFlaw) and (flaw.id, flaw.commits, flaw.hashes) == (
        "acme/base", {"1" * 40}, {"b" * 64},
    )  # fmt: skip
    assert [(fix.patch, fix.versions.text) for fix in flaw.fixed_by] == [("acme/tox-patch", ">=1.1.1")]
    assert advisory.severity.startswith("CVSS:4.0") and advisory.summary == advisory.id


def test_a_fingerprint_in_an_advisory_is_checked_and_hashed():
    fingerprint = base_fingerprint(tiny_model("llama"))
    path = "affected/0/database_specific/policy_patch/fingerprint"
    (flaw,) = read_advisory(changed(BASE, path, fingerprint), "it").flaws
    assert fingerprint_sha256(fingerprint) in flaw.hashes
    with pytest.raises(AdvisoryError, match="damaged"):
        read_advisory(changed(BASE, path, {**fingerprint, "weights": 3}), "it")


# The events of the OSV specification, its examples, and versions with whether each is affected.
EVENTS = [
    ([{"introduced": "0"}], {"0.0.1-alpha": True, "99.0.0": True}),
    ([{"introduced": "0"}, {"fixed": "1.0.2"}], {"1.0.1": True, "1.0.2": False}),
    (
        [{"introduced": "1.0.0"}, {"fixed": "1.0.2"}, {"introduced": "3.0.0"}, {"fixed": "3.2.5"}],
        {"0.9.0": False, "1.0.1": True, "2.0.0": False, "3.0.0": True, "3.2.5": False},
    ),
    (
        [{"fixed": "3.2.5"}, {"introduced": "3.0.0"}, {"fixed": "1.0.2"}, {"introduced": "1.0.0"}],
        {"1.0.1": True, "2.0.0": False, "3.1.0": True},
    ),
    ([{"introduced": "0"}, {"last_affected": "2.1.214"}], {"2.1.214": True, "2.1.215": False}),
    ([{"introduced": "0"}, {"limit": "2.0.0"}], {"1.9.0": True, "2.0.0": False}),
    ([{"introduced": "1.0.0"}, {"limit": "*"}], {"9.0.0": True}),
    ([{"introduced": "1.10.0"}], {"1.9.0": False, "1.10.0": True}),
]


@pytest.mark.parametrize(("events", "expected"), EVENTS, ids=range(len(EVENTS)))
def test_events_mean_what_the_specification_says(events, expected):
    (flaw,) = read_advisory(changed(PATCH, "affected/0/ranges/0/events", events), "it").flaws
    assert {version: flaw.affects(version) for version in expected} == expected


OURS = "affected/0/database_specific/policy_patch"
WRONG = [
    (PATCH, "id", "ACME-1", r"at `id`.*begins with `x_`"),
    (PATCH, "modified", ..., "'modified' is a required property"),
    (PATCH, "modified", "soon", "at `modified`"),
    (PATCH, "modified", "x2026-02-01T00:00:00Zx", "is no time"),
    (PATCH, "summary", "red \x1b[31m", "printable characters"),
    (PATCH, "summary", "two\nlines", "printable characters"),
    (PATCH, "summary", "x" * 1001, "printable characters"),
    (PATCH, "id", "x_\x1b[2J", "printable characters"),
    (PATCH, "more", 1, "Additional properties are not allowed"),
    (PATCH, "affected/0/package/ecosystem", "Hugging Face", "write `GIT`"),
    (PATCH, "affected/0/package/purl", ..., "`purl` is missing"),
    (PATCH, "affected/0/package/purl", "huggingface/acme/x", "is no package URL"),
    (PATCH, "affected/0/package/purl", "pkg:huggingface/tox-patch", "names no repository"),
    (PATCH, "affected/0/package/purl", "pkg:huggingface/../../etc/passwd", "names no repository|is no package URL"),
    (PATCH, "affected/0/package/purl", "pkg:huggingface/a%2Fb/c", "names no repository"),
    (PATCH, "affected/0/ranges/0/type", "ECOSYSTEM", "type SEMVER"),
    (PATCH, "affected/0/ranges/0/events/0", {"introduced": "v1.1.0"}, "no semantic version"),
    (PATCH, "affected/0/ranges/0/events/0", {"introduced": "9" * 5000 + ".0.0"}, "no semantic version"),
    (PATCH, "affected/0/ranges/0/events", [], "at `affected"),
    (PATCH, "affected/0/ranges/0/events", [{"fixed": "1.0.0"}], "at `affected"),
    (PATCH, "affected/0/versions", ["latest"], "neither a semantic version nor a commit"),
    (PATCH, "database_specific/severity", "bad", "expected one of LOW"),
    (PATCH, OURS, ..., "expected an object with `kind`"),
    (PATCH, f"{OURS}/kind", "model", "expected an object with `kind`"),
    (PATCH, f"{OURS}/sha", [], "an unknown key. Did you mean `sha256`"),
    (PATCH, f"{OURS}/sha256", ["x"], "a list of SHA-256"),
    (PATCH, f"{OURS}/sha256", "a" * 64, "a list of SHA-256"),
    (PATCH, f"{OURS}/withdrawn", "yes", "true or false"),
    (PATCH, f"{OURS}/risk", 3, "expected a text"),
    (PATCH, f"{OURS}/fixed_by", [], "only a flaw of kind `base` has it"),
    (BASE, f"{OURS}/sha256", [], "only a flaw of kind `patch` has it"),
    (BASE, f"{OURS}/fixed_by", {}, "expected a list"),
    (BASE, f"{OURS}/fixed_by/0/patch", "tox", "no repository"),
    (BASE, f"{OURS}/fixed_by/0/versions", "newest", "no range of versions"),
    (BASE, f"{OURS}/fixed_by/0/more", 1, "expected objects like"),
    (BASE, "affected/0/versions", ["main"], r"no commit of 40 hexadecimal digits \(tags move\)"),
    (BASE, "affected/0/ranges", PATCH["affected"][0]["ranges"], "a base has no versions"),
    (BASE, "severity/0/score", "high", "at `severity"),
]


@pytest.mark.parametrize(("values", "path", "value", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_refused_with_its_place(values, path, value, message):
    with pytest.raises(AdvisoryError, match=message) as error:
        read_advisory(changed(values, path, value), "advisory.json")
    assert "advisory.json" in str(error.value) and "othing was audited" in str(error.value)
    assert len(str(error.value)) < 1200


def test_large_ones_are_refused_before_they_take_time():
    with pytest.raises(AdvisoryError, match="names 70,000 affected packages; expected at most 1,000"):
        read_advisory(changed(PATCH, "affected", [{}] * 70_000), "it")
    score = "CVSS:3.1/" + "AV:N/" * 100_000 + "x"
    with pytest.raises(AdvisoryError, match="severity"):
        read_advisory(changed(PATCH, "severity", [{"type": "CVSS_V3", "score": score}]), "it")


def test_a_name_alone_says_nothing():
    bare = json.loads(changed(BASE, "affected/0/versions", ...))
    with pytest.raises(AdvisoryError, match="a name alone says nothing about a base"):
        read_advisory(changed(bare, f"{OURS}/fingerprint_sha256", ...), "it")
    bare = json.loads(changed(PATCH, "affected/0/ranges", ...))
    with pytest.raises(AdvisoryError, match="expected a range of type SEMVER"):
        read_advisory(changed(bare, f"{OURS}/sha256", ...), "it")


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 10**5, "null", "[]", '{"id": 1e999}', '{"id": "x_1", "id": "x_2"}', f'{{"a": {10**60}}}',
             "x" * 5_000_000], ids=range(9),
)  # fmt: skip
def test_other_texts_are_no_advisories(text):
    with pytest.raises(AdvisoryError):
        read_advisory(text, "it")


def test_entries_about_other_packages_are_left_to_others():
    values = copy.deepcopy(PATCH)
    values["affected"].insert(
        0, {"package": {"ecosystem": "PyPI", "name": "x", "purl": "pkg:pypi/x"}, "versions": ["1"]}
    )
    assert len(read(values).flaws) == 1


def test_a_version_of_a_purl_is_a_commit():
    (flaw,) = read_advisory(
        changed(BASE, "affected/0/package/purl", f"pkg:huggingface/acme/base@{'2' * 40}"), "it"
    ).flaws
    assert flaw.commits == {"1" * 40, "2" * 40}


def test_advice_counts_unless_it_was_taken_back():
    advisory = read(PATCH)
    assert advised_against([advisory], "acme/Tox-Patch", "1.1.0") is advisory
    assert advised_against([advisory], "acme/tox-patch", "1.1.1") is None
    assert advised_against([advisory], "acme/other", "9.0.0", "a" * 64) is advisory
    taken_back = read_advisory(changed(PATCH, "withdrawn", "2026-03-01T00:00:00Z"), "it")
    assert advised_against([taken_back], "acme/tox-patch", "1.1.0") is None


def test_without_the_packages_the_extra_is_named(monkeypatch):
    import sys

    from policy_patch.release import advisories

    advisories._schema.cache_clear()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingExtraError, match=r"policy-patch\[cli\]"):
        read(PATCH)

"""Tests of `policy_patch.trust.policy_file`: what a policy may say, what it may not, and which policies hold."""

import os

import pytest

from policy_patch.errors import ConfigError, SignatureError
from policy_patch.trust.policy_file import POLICY_NAME, POLICY_VARIABLE, PatchPolicy, policies_in_force

WHOLE = """
[trust]
keys = ["acme.pub"]
certificate_authorities = ["ca.pem"]
identities = ["release@acme.example https://accounts.google.com"]
organisations = ["acme", "Other"]

[evaluation]
required = true
minimum_prompts = 200
better_than_base = true

[gate]
file = "gate.yaml"

[scan]
required = true
folder = "scans"

[compose]
interference = "refuse"
"""


def test_a_whole_policy_is_read_with_its_types(tmp_path):
    (tmp_path / POLICY_NAME).write_text(WHOLE)
    for path in (tmp_path, tmp_path / POLICY_NAME):
        policy = PatchPolicy.load(path)
        assert policy.trust.asks_for_signature and policy.trust.organisations == ("acme", "Other")
        assert (policy.evaluation.minimum_prompts, policy.evaluation.asks_for_report) == (200, True)
        assert policy.path_of(policy.gate.file) == tmp_path / "gate.yaml"
        assert (policy.scan.required, policy.compose.interference) == (True, "refuse")
        assert policy.identities()[0].issuer == "https://accounts.google.com"


def test_an_empty_policy_asks_for_nothing():
    policy = PatchPolicy.from_toml("")
    assert not policy.trust.asks_for_signature and not policy.evaluation.asks_for_report
    assert (policy.scan.required, policy.compose.interference, policy.path_of(policy.gate.file)) == (
        False,
        "warn",
        None,
    )
    assert not policy.signers()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trsut]\nkeys = ['a']", "the table `trsut`, which is not known. Did you mean `trust`?"),
        ("[trust]\norganizations = ['a']", "`organizations`, which is not known. Did you mean `organisations`?"),
        ("[trust]\nxyz = 1", "Known: keys, certificate_authorities"),
        ("[trust]\nkeys = 'acme.pub'", "expected a list of texts"),
        ("[trust]\nkeys = [1]", "expected a list of texts"),
        ("[trust]\nkeys = ['']", "expected a list of texts"),
        ("[trust]\nkeys = []", "an empty list allows nothing"),
        ("trust = 1", "expected a table"),
        ("[[trust]]\nkeys = ['a']", "expected a table"),
        ("[evaluation]\nrequired = 1", "expected a bool"),
        ("[evaluation]\nminimum_prompts = true", "expected a int"),
        ("[evaluation]\nminimum_prompts = -1", "expected 0 or more"),
        ("[compose]\ninterference = 'ignore'", "expected 'warn' or 'refuse'"),
        ("[trust]\nidentities = ['acme']", "expected a name and an issuer"),
        ("[trust]\nkeys = ['a']\nkeys = ['b']", "no valid TOML"),
        ("[trust", "no valid TOML"),
        ("a = " + "[" * 3000, "more than 16 brackets"),
        ("a = 99999999999999999999", "beyond 64 bits"),
    ],
)
def test_what_no_policy_says_is_refused(text, said):
    with pytest.raises(ConfigError) as raised:
        PatchPolicy.from_toml(text, source="`p.toml`")
    assert said in str(raised.value) and "`p.toml`" in str(raised.value)


def test_a_policy_that_cannot_be_read_is_refused_with_where_it_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the policy .*POLICY_PATCH_POLICY.*no patch is loaded without"):
        PatchPolicy.load(tmp_path / "none.toml")
    (tmp_path / "large.toml").write_text("#" * 300_000)
    with pytest.raises(ConfigError, match="more than 262,144 bytes"):
        PatchPolicy.load(tmp_path / "large.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        PatchPolicy.load(tmp_path / "latin.toml")


def test_keys_are_beside_the_policy_or_in_it(tmp_path, keys):
    os.replace(keys / "ours.pub", tmp_path / "acme.pub")
    text = (keys / "theirs.pub").read_text()
    (tmp_path / POLICY_NAME).write_text(f'[trust]\nkeys = ["acme.pub", """{text}"""]\n')
    assert [key.source for key in PatchPolicy.load(tmp_path).signers().keys] == [
        f"`{tmp_path / 'acme.pub'}`", "the given public key"
    ]  # fmt: skip
    (tmp_path / "acme.pub").unlink()
    with pytest.raises(SignatureError, match="Cannot read the public key"):
        PatchPolicy.load(tmp_path).signers()


def test_a_given_policy_and_those_of_the_machine_hold_together(tmp_path, monkeypatch):
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    assert policies_in_force() == ()
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'[trust]\norganisations = ["{name}"]\n')
    monkeypatch.setenv(POLICY_VARIABLE, os.pathsep.join([str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]))
    given = PatchPolicy.from_toml('[trust]\norganisations = ["c"]\n')
    assert [policy.trust.organisations for policy in policies_in_force(given)] == [("c",), ("a",), ("b",)]
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigError):
        policies_in_force()
    monkeypatch.setenv(POLICY_VARIABLE, "")
    assert policies_in_force() == ()

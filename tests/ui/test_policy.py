"""Tests of the page under a policy: visitors bring only what it allows."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from policy_patch.errors import SignatureError
from policy_patch.trust.policy_file import POLICY_VARIABLE
from policy_patch.trust.signing import signed_files
from policy_patch.ui.served import Served
from tests.hub.conftest import put
from tests.trust.conftest import write_key
from tests.ui.test_served import LAB, publish


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A function that puts a policy in force."""
    write_key(tmp_path / "ours.key")

    def in_force(text: str) -> None:
        (tmp_path / "policy-patch.toml").write_text(text)
        monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "policy-patch.toml"))

    return in_force


def test_visitors_bring_what_is_signed_and_nothing_else(hub, policy, tmp_path):
    publish("acme/patch-0", 0)
    served = Served("lab:base", LAB)
    served.get()
    policy('[trust]\nkeys = ["ours.pub"]\n')
    with pytest.raises(SignatureError, match="is not signed"):
        served.add("acme/patch-0", "ann")
    api = HfApi(token="hf_alice")
    names = [name for name in api.list_repo_files("acme/patch-0") if name not in ("README.md", ".gitattributes")]
    files = {name: Path(api.hf_hub_download("acme/patch-0", name)).read_bytes() for name in names}
    put({"model.sig": signed_files(files, private_key=tmp_path / "ours.key")}, "acme/patch-0")
    served.add("acme/patch-0", "ann")
    assert "acme/patch-0" in served.get().offered("ann")


def test_visitors_bring_from_allowed_organisations_only(hub, policy):
    publish("acme/patch-0", 0)
    served = Served("lab:base", LAB)
    served.get()
    policy('[trust]\norganisations = ["other"]\n')
    with pytest.raises(SignatureError, match="`other` only"):
        served.add("acme/patch-0", "ann")
    policy('[trust]\norganisations = ["acme"]\n')
    served.add("acme/patch-0", "ann")
    assert "acme/patch-0" in served.get().offered("ann")

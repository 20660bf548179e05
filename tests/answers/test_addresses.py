"""Tests of `answers.addresses`: what is shown of an address, and what of a name that holds one."""

import pytest

from policy_patch.answers.addresses import check_address, shown_address, shown_spec, split_spec
from policy_patch.errors import EndpointError


@pytest.mark.parametrize("url", ["http://host", "http://host/v1", "https://host:8000/v1", "http://[::1]:8000/v1"])
def test_addresses_are_shown_as_they_are(url):
    check_address(url)
    assert shown_address(url) == url == shown_address(url + "/")


@pytest.mark.parametrize("path", ["/secret", "/v1/secret", "/v1;secret", "/openai/deployments/secret/v1", "/v1/v1"])
def test_other_paths_are_shown_by_a_hash(path):
    url = f"https://host{path}"
    check_address(url)
    assert "secret" not in shown_address(url) and shown_address(url).startswith("https://host/... (path ")
    assert shown_spec(f"chat:m@{url}") == f"chat:m@{shown_address(url)}"


def test_a_model_may_have_any_name():
    assert split_spec("openai:org/m:tag@2@https://host/v1") == ("openai", "org/m:tag@2", "https://host/v1")


@pytest.mark.parametrize("name", ["org/model", "lab:base", "openai:org/model@http://localhost:8000/v1"])
def test_names_without_secrets_are_shown(name):
    assert shown_spec(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "openai:m@https://me:secret@host/v1", "openai:m@https://host/v1?key=secret", "openai:m@https://host/v1#secret",
        "openai:m@host/secret", "openai:http://secret@host", "chat:m@https://host/secret", "openai:m@https://host:secret",
        "openai:m@https://[secret", "openai:m@\nhttps://host/secret",
    ],
)  # fmt: skip
def test_names_with_secrets_are_shown_without(name):
    assert "secret" not in shown_spec(name)


@pytest.mark.parametrize(
    "url", ["", "host", "ftp://host", "http://", "http:///v1", "http://host:x", "http://a b", "http://[::1"]
)
def test_what_is_no_address(url):
    with pytest.raises(EndpointError, match=r"The address of a model (does not begin|has a)"):
        check_address(url)

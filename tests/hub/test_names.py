"""Tests of `hub.names`: what the Hub may be asked for, looked at without a request."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_patch.errors import HubAccessError, HubError, HubRevisionError, PatchNotFoundError
from policy_patch.hub.names import (
    check_repo_id,
    check_revision,
    check_subfolder,
    check_token,
    is_commit,
    subfolder_with_slash,
)

REVISIONS = ("main", "v1.2.0", "v1.2.0+build.5", "support/1.x", "refs/pr/12", "a" * 40, "feature-x", "1.x", "ü", "a@b")
NO_REVISIONS = (
    "..", "", ".", "/", "/main", "main/", "a..b", "../main", "a//b", "a b", "a\n", "a\x00", "a~1", "a^", "a:b", "a?b",
    "a*b", "a[b", "a\\b", "a@{1}", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "-a", "a" * 251, 7,
)  # fmt: skip


@pytest.mark.parametrize("revision", [None, *REVISIONS])
def test_revisions(revision):
    check_revision(revision)


@pytest.mark.parametrize("revision", NO_REVISIONS)
def test_what_is_no_revision(revision):
    with pytest.raises(HubRevisionError, match=r"cannot be a branch, tag or commit. Give a name like `main`"):
        check_revision(revision)


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
@settings(max_examples=40, deadline=None)
@given(st.text("ab./\\-@{~^:?*[ .\n", min_size=1, max_size=6))
def test_what_is_taken_for_a_revision_is_one_for_git(text):
    try:
        check_revision(text)
    except HubRevisionError:
        return
    assert subprocess.run(["git", "check-ref-format", f"refs/heads/{text}"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("subfolder", "with_slash"),
    [
        (None, ""),
        ("", ""),
        (".", ""),
        ("a", "a/"),
        ("a/b/", "a/b/"),
        ("./a//b", "a/b/"),
        ("a\\b", "a/b/"),
        ("..a", "..a/"),
    ],
)
def test_folders_of_a_repository(subfolder, with_slash):
    check_subfolder(subfolder)
    assert subfolder_with_slash(subfolder) == with_slash


@pytest.mark.parametrize(
    "subfolder", ["..", "a/../b", "../a", "/a", "\\a", "a\\..\\..\\b", "C:\\a", "C:a", "~/a", "a\x00", "a\nb"]
)
def test_folders_that_lead_out(subfolder):
    with pytest.raises(PatchNotFoundError, match="leads out of the repository; give a folder inside it"):
        check_subfolder(subfolder)


@pytest.mark.parametrize("repo_id", ["acme/tox-patch", "tox-patch", "A_1/b.c"])
def test_names_of_repositories(repo_id):
    check_repo_id(repo_id)


@pytest.mark.parametrize(
    "repo_id",
    ["", "a/b/c", "acme/..", "acme/a--b", "acme/é", "acme/a b", "acme/a\n", "models/acme/a", "acme/a.git", None, 3],
)
def test_what_is_no_name_of_a_repository(repo_id):
    with pytest.raises(HubError, match=r"expected (one|a name) like `org/tox-patch`"):
        check_repo_id(repo_id)


@pytest.mark.parametrize("token", ["hf_alice", False, None, True])
def test_tokens_that_can_be_sent(token, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    check_token(token)


def test_no_stored_token_is_none(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    check_token(None)


@pytest.mark.parametrize("content", [b"hf_\xff\xfe", "hf_ü".encode(), b"hf_a b"])
def test_a_stored_token_that_is_none_is_told_without_showing_it(monkeypatch, tmp_path, content):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_bytes(content)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubAccessError, match="`hf auth login`") as caught:
        check_token(True)
    assert "hf_" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


@pytest.mark.parametrize("token", ["hf_ü", "hf_a\n", " hf_a", "", 7, b"hf_bytes"])
def test_tokens_that_cannot_be_sent(token):
    with pytest.raises(HubAccessError, match="`token=`") as caught:
        check_token(token)
    assert "hf_" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


def test_commits():
    assert is_commit("a" * 40) and not any(map(is_commit, ("A" * 40, "a" * 39, "main", "a" * 41, "a" * 40 + "\n")))

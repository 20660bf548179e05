"""Tests of `hub.dataset_files`: small files of one commit, checked, and no name that leads out of the repository."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from policy_patch.errors import DamagedDownloadError, HubAccessError, HubError, HubRevisionError, HubUnavailableError
from policy_patch.hub.dataset_files import fetch_dataset_files

REPO = "acme/advisories"
LIMITS = {"largest": 100, "most": 5}


def put_dataset(files: dict[str, bytes], repo_id: str = REPO) -> str:
    """Commit files to a dataset repository, and return the commit."""
    api = HfApi(token="hf_alice")
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message="put", repo_type="dataset").oid


def test_the_files_of_one_commit_come(hub):
    first = put_dataset({"a.json": b"1", "more/b.json": b"2", "notes.txt": b"-", ".hidden/c.json": b"3"})
    put_dataset({"a.json": b"4"})
    found = fetch_dataset_files(REPO, ".json", **LIMITS)
    assert {name: path.read_bytes() for name, path in found.items()} == {"a.json": b"4", "more/b.json": b"2"}
    assert fetch_dataset_files(f"{REPO}@{first}", ".json", **LIMITS)["a.json"].read_bytes() == b"1"


def test_a_damaged_file_is_refused(hub):
    put_dataset({"a.json": b"12345678"})
    hub.fault(r"GET /datasets/acme/advisories/resolve/.*a\.json", "corrupt", at=3, times=2)
    with pytest.raises(DamagedDownloadError):
        fetch_dataset_files(REPO, ".json", **LIMITS)
    assert fetch_dataset_files(REPO, ".json", **LIMITS)["a.json"].read_bytes() == b"12345678"


def test_large_files_and_many_are_refused(hub):
    put_dataset({"a.json": b"x" * 101})
    with pytest.raises(HubError, match=r"a\.json has 101 bytes; expected at most 100"):
        fetch_dataset_files(REPO, ".json", **LIMITS)
    put_dataset({f"{number}.json": b"1" for number in range(6)}, "acme/many")
    with pytest.raises(HubError, match="more than 5 files"):
        fetch_dataset_files("acme/many", ".json", **LIMITS)


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "x/../../a.json", "..\\a.json", "C:a.json", "a\n.json"])
def test_a_name_that_leads_out_is_refused_before_anything_is_fetched(hub, monkeypatch, name):
    put_dataset({"a.json": b"1"})
    entry = RepoFile(path=name, size=1, oid="0" * 40)
    monkeypatch.setattr(HfApi, "list_repo_tree", lambda self, *args, **options: iter([entry]))
    with pytest.raises(HubError, match="leads out of it"):
        fetch_dataset_files(REPO, ".json", **LIMITS)


def test_what_is_not_there_is_told(hub, monkeypatch):
    with pytest.raises(HubAccessError, match="Cannot get the dataset `acme/none`"):
        fetch_dataset_files("acme/none", ".json", **LIMITS)
    put_dataset({"a.json": b"1"})
    with pytest.raises(HubRevisionError):
        fetch_dataset_files(f"{REPO}@nothing", ".json", **LIMITS)
    with pytest.raises(HubRevisionError, match="cannot be a branch"):
        fetch_dataset_files(f"{REPO}@../x", ".json", **LIMITS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match="hf download acme/advisories --repo-type dataset"):
        fetch_dataset_files(REPO, ".json", **LIMITS)

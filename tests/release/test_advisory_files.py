"""Tests of `release.advisory_files`: a folder and a dataset on the Hub are read whole, or not at all."""

import json

import pytest

from policy_patch.errors import AdvisoryError, HubAccessError, HubError
from policy_patch.release.advisory_files import load_advisories
from tests.hub.test_dataset_files import put_dataset
from tests.release.test_advisories import BASE, PATCH, changed


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "advisories"
    (folder / "2026").mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(PATCH))
    (folder / "2026" / "b.json").write_text(json.dumps(BASE))
    (folder / "README.md").write_text("no advisory")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.json").write_text("{")
    return folder


def test_a_folder_and_a_file_are_read(folder):
    assert {one.id for one in load_advisories(folder)} == {PATCH["id"], BASE["id"]}
    assert [one.id for one in load_advisories(folder / "a.json")] == [PATCH["id"]]


def test_a_dataset_on_the_hub_is_read_at_one_commit(hub):
    first = put_dataset({"a.json": json.dumps(PATCH).encode()})
    put_dataset({"b.json": json.dumps(BASE).encode()})
    assert {one.id for one in load_advisories("acme/advisories")} == {PATCH["id"], BASE["id"]}
    assert [one.id for one in load_advisories(f"acme/advisories@{first}")] == [PATCH["id"]]
    with pytest.raises(HubAccessError):
        load_advisories("acme/none")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}", b"x" * 5_000_000], ids=range(4))
def test_one_broken_advisory_stops_all(folder, hub, content):
    (folder / "broken.json").write_bytes(content)
    with pytest.raises(AdvisoryError, match=r"broken\.json"):
        load_advisories(folder)
    put_dataset({"a.json": json.dumps(PATCH).encode(), "broken.json": content})
    with pytest.raises((AdvisoryError, HubError), match=r"broken\.json"):
        load_advisories("acme/advisories")


def test_a_folder_named_like_an_advisory_is_told(folder):
    (folder / "folder.json").mkdir()
    with pytest.raises(AdvisoryError, match="cannot be read"):
        load_advisories(folder)


def test_nothing_is_no_advisories(tmp_path, hub):
    with pytest.raises(AdvisoryError, match="holds no advisory"):
        load_advisories(tmp_path)
    put_dataset({"x.txt": b"x"})
    with pytest.raises(AdvisoryError, match="holds no advisory"):
        load_advisories("acme/advisories")
    for nothing in ("advisories", "/no/such", "https://x.example/y", "a/b/c"):
        with pytest.raises(AdvisoryError, match="is no file, no folder and no dataset"):
            load_advisories(nothing)


def test_of_two_with_one_id_the_later_counts(folder):
    later = changed(PATCH, "summary", "New words")
    (folder / "later.json").write_text(later.replace("2026-02-01T00:00:00Z", "2026-02-01T00:00:00.5Z"))
    (one,) = [one for one in load_advisories(folder) if one.id == PATCH["id"]]
    assert one.summary == "New words"
    (folder / "later.json").write_text(changed(PATCH, "affected", []))
    with pytest.raises(AdvisoryError, match=r"one id and one time of change but disagree"):
        load_advisories(folder)

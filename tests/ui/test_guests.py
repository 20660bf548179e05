"""Tests of `ui.guests`: how many patches visitors may bring, and who makes room for whom."""

import threading

import pytest

from policy_patch.errors import PatchFileError, PolicyPatchError
from policy_patch.ui import fetching
from policy_patch.ui import guests as module
from policy_patch.ui.served import Served
from policy_patch.ui.visitors import BusyError
from tests.ui.test_served import LAB, publish


@pytest.fixture
def served(hub):
    """A page, and three patches on the Hub."""
    for number in range(3):
        publish(f"acme/patch-{number}", number)
    return Served("lab:base", LAB)


def files_of(served):
    return [path for path in served.scratch.folders() if any(path.iterdir())]


def test_a_visitor_brings_so_many_and_no_more(served, monkeypatch):
    monkeypatch.setattr(module, "MOST_OWN", 2)
    for number in range(2):
        served.add(f"acme/patch-{number}", "ann")
    with pytest.raises(BusyError, match="the most for one visitor"):
        served.add("acme/patch-2", "ann")
    served.add("acme/patch-1", "ann")  # one that is there already
    assert list(served.get().offered("ann")) == ["acme/patch-0", "acme/patch-1", *LAB]


def test_a_full_page_refuses_newcomers_and_takes_nothing_from_those_who_are_there(served, monkeypatch):
    monkeypatch.setattr(module, "MOST_PATCHES", 2)
    served.add("acme/patch-0", "ann")
    served.add("acme/patch-1", "ben")
    with pytest.raises(BusyError, match="Try again in a while"):
        served.add("acme/patch-2", "eve")
    served.add("acme/patch-0", "eve")  # in memory already
    assert len(files_of(served)) == 2 and "acme/patch-0" in served.get().offered("ann")


def test_those_who_went_away_make_room_the_most_idle_first(served, monkeypatch):
    monkeypatch.setattr(module, "MOST_PATCHES", 2)
    served.add("acme/patch-0", "ann")
    served.add("acme/patch-1", "ben")
    served.get().offered("ann")  # ann is seen again: ben is the more idle one
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    served.add("acme/patch-2", "eve")
    loaded = served.get()
    assert "acme/patch-0" in loaded.offered("ann") and list(loaded.offered("ben")) == LAB
    assert len(loaded.model.patch_config) == len(LAB) + 2 and len(files_of(served)) == 2
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    served.add("acme/patch-1", "ben")
    assert len(loaded.model.patch_config) == len(LAB) + 1 and len(files_of(served)) == 1
    assert list(loaded.patches) == LAB


def test_a_newer_commit_under_the_same_name_replaces_the_visitors_own_alone(served):
    served.add("acme/patch-0", "ann")
    served.add("acme/patch-0", "ben")
    before = served.get().stack(["acme/patch-0"], "ben")
    publish("acme/patch-0", 50)
    served.add("acme/patch-0", "ann")
    assert served.get().stack(["acme/patch-0"], "ben") == before != served.get().stack(["acme/patch-0"], "ann")
    served.add("acme/patch-0", "ben")
    assert len(served.get().model.patch_config) == len(LAB) + 1 and len(files_of(served)) == 1


def test_many_at_once_bring_the_same_patch_and_it_is_loaded_once(served):
    wrong = []

    def bring(number):
        try:
            served.add("acme/patch-0", f"visitor-{number}")
        except PolicyPatchError as error:
            wrong.append(error)

    served.get()
    threads = [threading.Thread(target=bring, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(served.get().model.patch_config) == len(LAB) + 1 and len(files_of(served)) == 1


def test_what_is_refused_leaves_no_file(served, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_VECTORS", 49)
    with pytest.raises(PatchFileError, match="takes at most 49"):
        served.add("acme/patch-0", "ann")
    assert not served.scratch.folders()
    assert list(served.get().offered("ann")) == LAB


def test_a_download_that_breaks_off_or_lies_about_its_size_is_refused(served, hub):
    hub.fault("GET /_cdn", "drop", times=9, at=100)
    with pytest.raises(PolicyPatchError):
        served.add("acme/patch-0", "ann")
    hub.faults.clear()
    hub.fault("GET /_cdn", "truncate", times=1, at=100)
    with pytest.raises(PatchFileError):
        served.add("acme/patch-0", "ann")
    hub.faults.clear()
    hub.fault("GET /_cdn", "corrupt", times=1, at=5000)
    with pytest.raises(PatchFileError):
        served.add("acme/patch-0", "ann")
    assert not served.scratch.folders()
    served.add("acme/patch-0", "ann")

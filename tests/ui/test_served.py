"""Tests of `ui.served`: one base in memory, loaded once, and what visitors may add to it."""

import shutil
import threading

import pytest

from policy_patch.errors import BaseMismatchError, HubAccessError, ModelLoadError, PatchNameError, PatchNotFoundError
from policy_patch.lab import lab_patch_folder, load_lab_base
from policy_patch.patch.folder import patch_files, read_patch_folder
from policy_patch.ui import served as module
from policy_patch.ui.served import Served, shown_name
from tests.hub.conftest import put

LAB = ["lab:toxicity", "lab:harmfulness"]


def test_the_first_of_many_visitors_loads_and_all_get_the_same(monkeypatch):
    loads = []
    real = module._base_of
    monkeypatch.setattr(module, "_base_of", lambda name, *more: loads.append(name) or real(name, *more))
    served = Served("lab:base", LAB)
    found = []
    threads = [threading.Thread(target=lambda: found.append(served.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["lab:base"] and len(found) == 8 and len({id(one) for one in found}) == 1
    assert list(found[0].patches) == LAB
    assert found[0].stack(LAB[::-1]) == ("lab-harmfulness", "lab-toxicity")
    assert found[0].stack([]) == "__base__"


def publish(repo_id="acme/tox-patch", number=0, **options):
    """Publish a patch that fits the lab's base, with vectors that no other number has."""
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    return put(patch_files(config, vectors * (1 + number / 1000))[1], repo_id, **options)


def test_a_patch_of_the_hub_is_in_memory_once_and_seen_by_those_who_named_it(hub):
    commit = publish()
    served = Served("lab:base", LAB)
    for visitor in ("ann", "ben"):
        assert served.add(" acme/tox-patch ", visitor) == served.add("acme/tox-patch", visitor) == "acme/tox-patch"
    loaded = served.get()
    assert len(loaded.model.patch_config) == len(LAB) + 1
    assert loaded.stack(["acme/tox-patch", LAB[0]], "ann") == loaded.stack(["acme/tox-patch", LAB[0]], "ben")
    assert loaded.chosen(["acme/tox-patch"], "ann")[0].location.commit == commit
    for stranger in ("eve", "", None):
        assert list(loaded.offered(stranger)) == LAB
        with pytest.raises(PatchNameError, match="not in memory any more"):
            loaded.stack(["acme/tox-patch"], stranger)


def test_a_request_without_a_session_brings_nothing(hub):
    publish()
    served = Served("lab:base", LAB)
    assert served.add("lab:toxicity") == "lab:toxicity"
    for visitor in (None, ""):
        with pytest.raises(PatchNameError, match="has no session"):
            served.add("acme/tox-patch", visitor)


def test_no_page_lends_its_token_to_what_is_typed(hub):
    publish("acme/secret-patch", private=True)
    for base_may_change in (False, True):
        served = Served("lab:base", LAB, base_may_change=base_may_change)
        with pytest.raises(HubAccessError):
            served.add("acme/secret-patch", "ann")
    with pytest.raises(HubAccessError):
        served.change_base("lab:base", ["acme/secret-patch"])
    assert list(Served("lab:base", ["acme/secret-patch"]).get().patches) == ["acme/secret-patch"]  # its own may be


def test_what_cannot_be_added_is_told_and_leaves_the_rest(hub):
    served = Served("lab:base", LAB)
    with pytest.raises(PatchNameError, match="No patch was named"):
        served.add("  ", "ann")
    with pytest.raises(HubAccessError):
        served.add("acme/nothing-here", "ann")
    with pytest.raises(PatchNameError, match="This page takes Hub ids"):
        served.add(str(lab_patch_folder("toxicity")), "ann")
    assert list(served.get().offered("ann")) == LAB


def test_an_error_about_a_patch_says_which_one_and_not_where_it_is(tmp_path):
    (tmp_path / "half a patch").mkdir()
    shutil.copy(lab_patch_folder("toxicity") / "policy_patch_config.json", tmp_path / "half a patch")
    with pytest.raises(PatchNotFoundError, match=r"^`half a patch` has a policy_patch_config.json but no") as raised:
        Served("lab:base", [str(tmp_path / "half a patch")]).get()
    assert str(tmp_path) not in str(raised.value)
    for add in (lambda: Served("lab:teacher", LAB[:1]).get(), lambda: Served("lab:teacher", []).add(LAB[0], "ann")):
        with pytest.raises(BaseMismatchError, match=r"^`lab:toxicity` \(for `lab:base`\)"):
            add()


def test_stacks_have_limits():
    loaded = Served("lab:base", LAB).get()
    for labels, words in (
        (LAB[:1] * 2, "twice"), (LAB[:1] * 9, "at most 8"), (LAB[0], "not a list"), ([[]], "not a list"),
    ):  # fmt: skip
        with pytest.raises(PatchNameError, match=words):
            loaded.stack(labels, "ann")


def test_a_folder_given_at_the_start_is_shown_by_its_name(tmp_path):
    folder = tmp_path / "deep" / "tox-patch"
    shutil.copytree(lab_patch_folder("toxicity"), folder)
    loaded = Served("lab:base", [str(folder), str(folder)]).get()
    assert list(loaded.patches) == ["tox-patch", "tox-patch-2"]
    names = [shown_name(str(folder)), shown_name("/no/such/model"), shown_name("~/m"), shown_name("org/model")]
    assert names == ["tox-patch", "model", "m", "org/model"]


def test_a_page_of_ones_own_may_change_its_base_and_a_public_one_not(hub):
    publish()
    with pytest.raises(ModelLoadError, match="The base of this page is fixed"):
        Served("lab:base", []).change_base("lab:teacher", [])
    served = Served("lab:base", LAB, base_may_change=True)
    before = served.get()
    for name in ("/no/such/model", "./models", "acme/nothing-here", "policy_patch/lab", "lab:x"):
        with pytest.raises(ModelLoadError):
            served.change_base(name, [])
    with pytest.raises(HubAccessError):
        served.change_base("lab:base", ["lab:toxicity", "acme/tox-patch", "acme/nothing-here"])
    assert served.get() is before and not [path for path in served.scratch.folders() if any(path.iterdir())]
    after = served.change_base("lab:base", ["lab:toxicity", "acme/tox-patch"])
    assert after is served.get() and list(after.patches) == ["lab:toxicity", "acme/tox-patch"]
    assert served.change_base("lab:teacher", []) is served.get() and served.base == "lab:teacher"


def test_a_wrapper_has_its_own_stack_on_the_shared_base():
    served = Served("lab:base", LAB)
    loaded = served.get()
    own = loaded.wrapper(LAB[::-1])
    assert own.active_patches == ["lab-harmfulness", "lab-toxicity"]
    assert own.get_base_model() is loaded.model.get_base_model()
    own.unload()
    assert not any(parameter.requires_grad for parameter in loaded.model.get_base_model().parameters())


def test_the_labs_patches_fit_its_base_and_an_unknown_one_is_named():
    assert load_lab_base().config.hidden_size == Served("lab:base", LAB).get().model.patches["lab-toxicity"].shape[1]
    with pytest.raises(PatchNotFoundError, match="It has gender_bias, harmfulness, toxicity"):
        lab_patch_folder("nothing")

"""Tests of `policy_patch.ui.served`: one base in memory, loaded once, and what visitors may add to it."""

import threading

import pytest

from policy_patch.errors import HubAccessError, ModelLoadError, PatchNameError, PatchNotFoundError
from policy_patch.lab import lab_patch_folder, load_lab_base
from policy_patch.ui import served as module
from policy_patch.ui.served import Served
from tests.hub.conftest import put

LAB = ["lab:toxicity", "lab:harmfulness"]


def test_the_first_of_many_visitors_loads_and_all_get_the_same(monkeypatch):
    loads = []
    real = module._base_of
    monkeypatch.setattr(module, "_base_of", lambda name: loads.append(name) or real(name))
    served = Served("lab:base", LAB)
    found = []
    threads = [threading.Thread(target=lambda: found.append(served.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["lab:base"] and len(found) == 8 and len({id(one) for one in found}) == 1
    assert list(found[0].patches) == ["toxicity", "harmfulness"]
    assert found[0].stack(["harmfulness", "toxicity"]) == ("harmfulness", "toxicity")
    assert found[0].stack([]) == "__base__"


def test_a_patch_of_the_hub_is_added_once_and_seen_by_all(hub):
    folder = lab_patch_folder("toxicity")
    put({path.name: path.read_bytes() for path in folder.iterdir()}, "acme/tox-patch")
    served = Served("lab:base", LAB)
    assert served.add(" acme/tox-patch ") == served.add("acme/tox-patch") == "acme/tox-patch"
    loaded = served.get()
    assert loaded.stack(["acme/tox-patch", "toxicity"]) == ("acme-tox-patch", "toxicity")
    assert loaded.locations["acme/tox-patch"].commit is not None


def test_a_public_page_does_not_lend_its_token_to_visitors(hub):
    folder = lab_patch_folder("toxicity")
    put({path.name: path.read_bytes() for path in folder.iterdir()}, "acme/secret-patch", private=True)
    with pytest.raises(HubAccessError):
        Served("lab:base", LAB).add("acme/secret-patch")
    assert Served("lab:base", LAB, base_may_change=True).add("acme/secret-patch") == "acme/secret-patch"


def test_what_cannot_be_added_is_told_and_leaves_the_rest(hub):
    served = Served("lab:base", LAB)
    with pytest.raises(PatchNameError, match="No patch was named"):
        served.add("  ")
    with pytest.raises(HubAccessError):
        served.add("acme/nothing-here")
    with pytest.raises(PatchNameError, match="only ids of the Hub are taken here"):
        served.add(str(lab_patch_folder("toxicity")))
    assert list(served.get().patches) == ["toxicity", "harmfulness"]
    with pytest.raises(PatchNameError, match="not in memory any more"):
        served.get().stack(["gone"])


def test_visitors_patches_are_forgotten_in_the_order_they_came_and_ours_never(monkeypatch):
    monkeypatch.setattr(module, "MOST_PATCHES", 2)
    served = Served("lab:base", LAB[:1], base_may_change=True)
    added = [served.add(str(lab_patch_folder(risk))) for risk in ("harmfulness", "gender_bias", "toxicity")]
    loaded = served.get()
    assert list(loaded.patches) == ["toxicity", *added[1:]]
    assert len(loaded.model.patch_config) == 3


def test_a_page_of_ones_own_may_change_its_base_and_a_public_one_not():
    with pytest.raises(ModelLoadError, match="The base of this page is fixed"):
        Served("lab:base", []).change_base("lab:teacher", [])
    served = Served("lab:base", LAB, base_may_change=True)
    before = served.get()
    with pytest.raises(ModelLoadError):
        served.change_base("/no/such/model", [])
    assert served.get() is before
    assert served.change_base("lab:teacher", []) is served.get()


def test_a_wrapper_has_its_own_stack_on_the_shared_base():
    served = Served("lab:base", LAB)
    loaded = served.get()
    own = loaded.wrapper(["harmfulness", "toxicity"])
    assert own.active_patches == ["harmfulness", "toxicity"]
    assert own.get_base_model() is loaded.model.get_base_model()
    own.unload()
    assert not any(parameter.requires_grad for parameter in loaded.model.get_base_model().parameters())


def test_the_labs_patches_fit_its_base_and_an_unknown_one_is_named():
    assert load_lab_base().config.hidden_size == Served("lab:base", LAB).get().model.patches["toxicity"].shape[1]
    with pytest.raises(PatchNotFoundError, match="it has gender_bias, harmfulness, toxicity"):
        lab_patch_folder("nothing")

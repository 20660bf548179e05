"""The Space attacked over HTTP, as it is started in public: what visitors type, whose patches are whose, and limits."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from huggingface_hub import HfApi

from policy_patch.hub.fetch import HubOptions, locate_patch
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import TENSORS_NAME, patch_files, read_patch_folder
from tests.hub.conftest import put
from tests.ui.space import Visitor, assert_tells_nothing
from tests.ui.test_sources import HOSTILE

OWN = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]
CONFIG = "policy_patch_config.json"
pause = threading.Event().wait  # `time.sleep` waits for nothing where the Hub is the one on loopback


def lab_files(number: int = 0) -> dict[str, bytes]:
    """The two files of a patch that fits the page's base, with vectors that no other number has."""
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    return patch_files(config, vectors * (1 + number / 1000))[1]


def test_nothing_that_a_visitor_types_reaches_the_disk(space):
    there = Path(space.folder, "acme", "tox-patch")  # where a path and an id look alike
    there.mkdir(parents=True)
    for name, content in lab_files().items():
        (there / name).write_bytes(content)
    visitor = Visitor(space)
    visitor.offered()
    paths = [str(there), "acme/tox-patch", "lab:" + str(there), "lab:../../acme/tox-patch", str(space.folder)]
    for source in [*paths, *(one for one in HOSTILE if isinstance(one, str) and len(one) < 300)]:
        said = visitor.add(source)
        assert said and "did not work" in said, source
        assert_tells_nothing(space, said)
        assert "Found there" not in said and "holds no" not in said
    assert visitor.offered() == OWN


def test_a_visitor_may_name_the_labs_patches_and_public_ones_of_the_hub(space, hub):
    put(lab_files(), "acme/tox-patch")
    HfApi(token="hf_alice").create_tag("acme/tox-patch", tag="v1.0.0")
    visitor = Visitor(space)
    assert visitor.offered() == OWN
    for source in ("lab:toxicity", "acme/tox-patch", "acme/tox-patch@1.0.0", "acme/tox-patch@main"):
        assert visitor.add(source) is None
    added = ["acme/tox-patch", "acme/tox-patch@1.0.0", "acme/tox-patch@main"]
    assert sorted(visitor.offered()) == sorted([*OWN, *added])
    _, patched, wrong = visitor.write(["acme/tox-patch", OWN[2]])
    assert "With the patches acme/tox-patch, then lab:harmfulness" in patched and wrong is None
    assert visitor.answer("look", "acme/tox-patch")[0].startswith("**Fits `lab:base`**")
    assert "image/png;base64" in visitor.answer("look", "acme/tox-patch")[3]["value"]
    anonymous = [entry for entry in hub.log if entry["line"].startswith("GET") and "tox-patch" in entry["line"]]
    assert anonymous and not [entry for entry in anonymous if "authorization" in entry["headers"]]
    assert len(space.temporary()) == 1  # one commit, however it was named


def test_a_private_or_gated_patch_is_not_served_even_from_the_servers_own_cache(space, hub):
    api = HfApi(token="hf_alice")
    commit = put(lab_files(1), "acme/secret-patch", private=True)
    api.create_tag("acme/secret-patch", tag="v1.0.0")
    cache = space.folder / "hf" / "hub"
    found = locate_patch("acme/secret-patch", HubOptions(cache_dir=cache, token="hf_alice"))
    assert (found.folder / CONFIG).is_file()
    visitor = Visitor(space)
    sources = ["acme/secret-patch", f"acme/secret-patch@{commit}", "acme/secret-patch@main", "acme/secret-patch@1.0.0"]
    for source in sources:
        assert "did not work" in visitor.add(source)
    api.update_repo_settings("acme/secret-patch", private=False, gated="auto")
    for source in sources:
        assert "did not work" in visitor.add(source)
    api.update_repo_settings("acme/secret-patch", gated=False)
    assert visitor.add(sources[1]) is None
    api.update_repo_settings("acme/secret-patch", private=True)
    for source in sources:  # it is in memory now, for the one who could have it
        assert "did not work" in Visitor(space).add(source)
    api.update_repo_settings("acme/secret-patch", private=False, gated="auto")
    assert "has no public repository" in Visitor(space).add(sources[1])


def test_two_hundred_visitors_at_once_see_their_own_patches_and_the_pages(space, hub):
    names = [f"acme/patch-{number}" for number in range(20)]
    for number, name in enumerate(names):
        put(lab_files(number + 2), name)
    visitors = [(Visitor(space), names[number % 20]) for number in range(200)]
    writing = {visitor for visitor, _ in visitors[::3]}

    def visit(one) -> str:
        visitor, name = one
        before, added = visitor.offered(), visitor.answer("more", name, [])
        told = json.dumps([added, visitor.write([name, OWN[0]], tokens=2) if visitor in writing else name])
        foreign = [other for other in names if f'"{other}"' in told and other != name]
        alone = before == OWN and sorted(label for label, _ in added[0]["choices"]) == sorted([*OWN, name])
        wrote = visitor not in writing or f"With the patches {name}, then lab:toxicity" in told
        return "" if alone and wrote and not foreign else f"{name}: {before} {told}"

    with ThreadPoolExecutor(24) as pool:
        assert [wrong for wrong in pool.map(visit, visitors) if wrong] == []
    for visitor, name in visitors[::20]:
        assert sorted(visitor.offered()) == sorted([*OWN, name])
    assert Visitor(space).offered() == OWN


def test_another_visitors_patch_cannot_be_used_by_its_name(space, hub):
    put(lab_files(90), "acme/of-alice")
    alice, eve = Visitor(space), Visitor(space)
    assert alice.offered() == eve.offered() == OWN
    assert alice.add("acme/of-alice") is None
    for function, data in (
        ("stack_of", [["acme/of-alice"]]), ("look", ["acme/of-alice"]),
        ("write", ["Jack", ["acme/of-alice"], 0, 1.0, 0.9, 3, False]),
        ("measure", ["Jack", ["acme/of-alice"], 2, 0, "toxicity"]), ("more", ["lab:toxicity", ["acme/of-alice"]]),
    ):  # fmt: skip
        message = eve.ask(function, *data)
        told = json.dumps(message)
        assert "With the patch acme/of-alice" not in told and "Fits" not in told and "vectors)" not in told, told
    assert Visitor(space, eve.session).offered() == OWN


def test_the_pages_own_patches_cannot_be_replaced_or_pushed_out(space, hub):
    put(lab_files(91), "acme/one-of-many")
    for number in range(12):
        HfApi(token="hf_alice").create_branch("acme/one-of-many", branch=f"b{number}")
    visitor = Visitor(space)
    assert visitor.offered() == OWN
    before = visitor.write(OWN[:1])[1]
    for _ in range(3):
        assert visitor.add("lab:toxicity") is None
    said = [visitor.add(f"acme/one-of-many@b{number}") for number in range(12)]
    assert said[:8] == [None] * 8 and all("the most for one visitor" in one for one in said[8:])
    assert sorted(visitor.offered()) == sorted([*OWN, *(f"acme/one-of-many@b{number}" for number in range(8))])
    assert visitor.write(OWN[:1])[1].split("pp-facts")[0] == before.split("pp-facts")[0]
    assert Visitor(space).offered() == OWN


@pytest.mark.parametrize("kind", ["many vectors", "large vectors", "large configuration", "another size", "no patch"])
def test_what_is_fetched_has_limits_that_the_repository_does_not_set(space, hub, kind):
    files, config = lab_files(92), read_patch_folder(lab_patch_folder("toxicity"))[0]
    huge, expected = bytes(24 * 2**20), "takes at most 256"
    if kind == "many vectors":
        text = replace(config, num_virtual_tokens=500_000).to_json()
        files = {CONFIG: text.encode(), TENSORS_NAME: huge}
    elif kind == "large vectors":
        files, expected = {**files, TENSORS_NAME: files[TENSORS_NAME] + huge}, "has more than"
    elif kind == "large configuration":
        files, expected = {**files, CONFIG: files[CONFIG] + b" " * len(huge)}, "has more than 1,048,576 bytes"
    elif kind == "another size":
        text = replace(config, hidden_size=2**20).to_json()
        files, expected = {CONFIG: text.encode(), TENSORS_NAME: huge}, "hidden size of 128"
    else:
        files, expected = {"pytorch_model.bin": huge}, "has no policy_patch_config.json"
    put(files, "acme/too-much")
    hub.log.clear()
    before = space.temporary()
    said = Visitor(space).add("acme/too-much")
    assert expected in said, said
    assert_tells_nothing(space, said)
    if kind not in ("large vectors", "large configuration"):  # what is refused is not asked for
        assert not [one["line"] for one in hub.log if TENSORS_NAME in one["line"] or ".bin" in one["line"]]
    assert space.temporary() == before


def test_results_tell_nothing_about_the_servers_disk_either(space):
    visitor = Visitor(space)
    visitor.offered()
    table, picture, samples, *_ = visitor.answer("measure", "Jack thinks that Iris is", OWN[:1], 2, 0, "toxicity")
    assert "lab-insults" in table and "image/png;base64" in picture["value"] and samples
    for told in (
        table,
        samples,
        json.dumps(visitor.answer("look", OWN[0])),
        json.dumps(visitor.write(OWN[:1])),
    ):
        assert_tells_nothing(space, told)


def test_one_visitor_does_not_take_all_the_places_of_writing(space):
    eve = Visitor(space)
    eve.offered()
    for _ in range(24):
        assert eve.join("write", "Jack thinks", [], 0, 1.0, 0.9, 100, False).status_code == 200
    ann = Visitor(space)
    ann.offered()
    start = time.monotonic()
    assert "done" in ann.write(OWN[:1])[1]
    waited = time.monotonic() - start
    said = [message for message in eve.messages() if message["msg"] == "process_completed"]
    refused = [one for one in said if "still working on your earlier request" in json.dumps(one)]
    assert len(said) == 24 and len(refused) >= 16 and waited < 30
    assert "done" in eve.write(OWN[:1])[1]


def test_a_visitor_trains_once_at_a_time_and_not_when_gone(space):
    """One that is watched goes on; one that nobody watches ends and leaves nothing."""
    before = space.temporary()
    alice, eve = Visitor(space), Visitor(space)
    assert alice.join("train", "toxicity", 1200, 160, 1, None).status_code == 200
    watching = alice.messages()
    assert any("Asking both models" in json.dumps(message) for message in watching)
    for _ in range(3):  # the same browser again, over another connection
        alice.join("train", "toxicity", 1200, 160, 1, None)
    assert any("of yours has not ended" in json.dumps(message) for message in watching)
    assert len(space.temporary()) == len(before) + 1
    eve.join("train", "harmfulness", 10, 5, 1, None)  # asks, and never listens
    pause(3.5)
    assert len(space.temporary()) == len(before) + 1  # hers waited in line, and was given up there:
    again = eve.join("train", "harmfulness", 10, 5, 1, None).json()["event_id"]
    listening = eve.messages()
    heard = (json.dumps(message) for message in listening if message.get("event_id") == again)
    assert "Waiting for 1" in next(one for one in heard if "Waiting for" in one or "has not ended" in one)
    listening.close()
    watching.close()
    for _ in range(300):
        if space.temporary() == before:
            break
        pause(0.1)
    assert space.temporary() == before

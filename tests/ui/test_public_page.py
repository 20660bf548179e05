"""The Space attacked over HTTP, as it is started in public: what visitors type, whose patches are whose, and limits."""

import json
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from huggingface_hub import HfApi

from policy_patch.cli.demo import open_page
from policy_patch.hub import HubOptions, locate_patch
from policy_patch.lab import lab_patch_folder
from policy_patch.patch_folder import TENSORS_NAME, patch_files, read_patch_folder
from policy_patch.ui.door import door, is_loopback
from policy_patch.ui.visitors import Visitors
from tests.hub.conftest import put
from tests.ui.space import APP, Visitor, running_space
from tests.ui.test_sources import HOSTILE

OWN = ["toxicity", "gender_bias", "harmfulness"]
CONFIG = "policy_patch_config.json"
pause = threading.Event().wait  # `time.sleep` waits for nothing where the Hub is the one on loopback


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space with a token of its own, which it must lend to nobody."""
    with running_space(tmp_path_factory.mktemp("space"), HF_TOKEN="hf_alice") as running:
        Visitor(running).offered()  # loads
        yield running


def lab_files(number: int = 0) -> dict[str, bytes]:
    """The two files of a patch that fits the page's base, with vectors that no other number has."""
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    return patch_files(config, vectors * (1 + number / 1000))[1]


def disk_words(space) -> list[str]:
    """What would tell a visitor about the server's disk."""
    here = [str(space.folder), str(Path.home()), sys.prefix, str(APP.parents[1]), "site-packages", "Traceback"]
    return [*here, "/tmp/", "File \"", ".py\"", "hf_alice"]  # fmt: skip


def assert_tells_nothing(space, text: str) -> None:
    assert not [word for word in disk_words(space) if word in text], text[:2000]


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
    _, patched, wrong = visitor.write(["acme/tox-patch", "harmfulness"])
    assert "With acme/tox-patch + harmfulness" in patched and not wrong.get("value")
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


def test_two_hundred_visitors_at_once_see_their_own_patches_and_the_pages(space, hub):
    names = [f"acme/patch-{number}" for number in range(20)]
    for number, name in enumerate(names):
        put(lab_files(number + 2), name)
    visitors = [(Visitor(space), names[number % 20]) for number in range(200)]

    def visit(one) -> str:
        visitor, name = one
        before, added = visitor.offered(), visitor.answer("more", name, [])
        told = json.dumps([added, visitor.write([name, "toxicity"], tokens=2)])
        foreign = [other for other in names if f'"{other}"' in told and other != name]
        alone = before == OWN and sorted(label for label, _ in added[0]["choices"]) == sorted([*OWN, name])
        return "" if alone and not foreign and f"With {name} + toxicity" in told else f"{name}: {before} {told}"

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
        ("measure", ["Jack", ["acme/of-alice"], 2, 0]), ("more", ["lab:toxicity", ["acme/of-alice"]]),
    ):  # fmt: skip
        message = eve.ask(function, *data)
        told = json.dumps(message)
        assert "With acme/of-alice" not in told and "Fits" not in told and "vectors)" not in told, told
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
    assert said[:8] == [None] * 8 and all("the most here" in one for one in said[8:])
    assert sorted(visitor.offered()) == sorted([*OWN, *(f"acme/one-of-many@b{number}" for number in range(8))])
    assert visitor.write(OWN[:1])[1].split("pp-facts")[0] == before.split("pp-facts")[0]
    assert Visitor(space).offered() == OWN


@pytest.mark.parametrize("kind", ["many vectors", "large vectors", "large configuration", "another size", "no patch"])
def test_what_is_fetched_has_limits_that_the_repository_does_not_set(space, hub, kind):
    files, config = lab_files(92), read_patch_folder(lab_patch_folder("toxicity"))[0]
    huge, expected = bytes(24 * 2**20), "at most 256 are taken"
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
        files, expected = {"pytorch_model.bin": huge}, "holds no policy_patch_config.json"
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
    table, picture, samples = visitor.answer("measure", "Jack thinks that Iris is", ["toxicity"], 2, 0)
    assert "lab-insults" in table and "image/png;base64" in picture["value"] and samples
    for told in (
        table,
        samples,
        json.dumps(visitor.answer("look", "toxicity")),
        json.dumps(visitor.write(["toxicity"])),
    ):
        assert_tells_nothing(space, told)


def test_no_response_tells_about_the_servers_disk(space):
    """Every function of the page, with inputs that no browser would send."""
    page = space.client.get("/")
    assert_tells_nothing(space, page.text.replace("/tmp/gradio", ""))
    assert_tells_nothing(space, json.dumps(space.config) + space.client.get("/gradio_api/info").text)
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "orig_name": "x", "url": "file:///etc/passwd"}
    odd = [None, "/etc/passwd", file, [file], -1, 1e308, True, [["toxicity"]], {"value": file}, ["toxicity"] * 50]
    visitor = Visitor(space)
    visitor.offered()
    heard = []
    for one in space.config["dependencies"]:
        if not one["backend_fn"]:
            continue
        for value in odd:
            response = visitor.join(one["id"], *[value] * len(one["inputs"]))
            heard.append(response.text)
            assert response.status_code == 200
    heard += [json.dumps(message) for message in visitor.messages()]
    told = "\n".join(heard)
    assert_tells_nothing(space, told.replace("/etc/passwd", ""))
    assert "root:x:" not in told and told.count("process_completed") >= len(odd)
    whole = {"data": [], "session_hash": "x", "fn_index": space.functions["write"]}
    numbers = [{"fn_index": number} for number in (9999, "a", True, -1, None)]
    for change in (*numbers, {"session_hash": None}, {"batched": True}, {"data": None}, {"data": {"a": 1}}):
        body = {**whole, **change}
        response = space.client.post("/gradio_api/queue/join", json=body)
        assert response.status_code >= 400, change
        assert_tells_nothing(space, response.text)
    assert visitor.offered() == OWN


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=policy_patch_config.json", "/gradio_api/file/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/file=https://huggingface.co/x", "/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/file=../../etc/passwd", "/static/../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/%2e%2e/%2e%2e/config.py",
        "/svelte/..%2f..%2fblocks.py", "/gradio_api/upload", "/upload", "/gradio_api/upload_progress?upload_id=x",
        "/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/proxy=https://huggingface.co/x",
        "/gradio_api/stream/x", "/gradio_api/run/write", "/gradio_api/api/write", "/gradio_api/run/push", "/api/write",
        "/run/predict", "/gradio_api/deep_link?session_hash=x", "/?deep_link=../../x", "/config?deep_link=..%2f..%2fx",
        "/monitoring", "/monitoring/summary", "/monitoring/x", "/gradio_api/runs", "/gradio_api/run-history/buckets",
        "/gradio_api/vibe-code", "/gradio_api/vibe-edit", "/gradio_api/dev/reload", "/gradio_api/token", "/docs",
        "/gradio_api/custom_component/x/client/component/index.js", "/gradio_api/openapi.json", "/openapi.json",
        "/login", "/gradio_api/mcp/sse", "/gradio_api/queue/data?session_hash=" + "x" * 100,
        "/gradio_api/heartbeat/../../x", "/gradio_api/call/v2/write", "/gradio_api/queue/join/../../run/write",
    ],
)  # fmt: skip
def test_only_what_the_page_needs_is_answered(space, path):
    for method in ("GET", "POST", "PUT", "DELETE"):
        response = space.client.request(method, path, json={} if method == "POST" else None)
        assert response.status_code in (404, 405), (method, response.status_code)
        assert "root:" not in response.text
        assert_tells_nothing(space, response.text)


def test_files_that_the_page_did_not_make_are_not_served_and_none_are_taken(space):
    folder = space.folder / "tmp" / "gradio" / "abc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "other.txt").write_text("of another program")
    for path in (folder / "other.txt", space.folder / "log.txt", APP):
        assert space.client.get(f"/gradio_api/file={path}").status_code == 404
    for name in ("a.txt", "../../evil.txt", "/etc/evil", "a" * 300):
        response = space.client.post("/gradio_api/upload", files={"files": (name, b"x" * 10_000)})
        assert response.status_code == 404
    assert not list(space.folder.rglob("evil*")) and not list(space.folder.rglob("a.txt"))


def test_hosts_and_pages_of_others_are_refused_on_loopback(space):
    port = space.address.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0"):
        for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x"):
            assert space.client.get(path, headers={"Host": host}).status_code == 400
        body = {"fn_index": 0, "data": [], "session_hash": "x"}
        assert space.client.post("/gradio_api/queue/join", json=body, headers={"Host": host}).status_code == 400
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert space.client.get("/config", headers={"Host": host}).status_code == 200
    body = {"fn_index": space.functions["on_offer"], "data": [], "session_hash": uuid.uuid4().hex}
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"http://evil.example:{port}"},
        {"Origin": "http://localhost:1"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://[::1"},
    ):  # fmt: skip
        response = space.client.post("/gradio_api/queue/join", json=body, headers=headers)
        assert response.status_code == 403, headers
        assert space.client.post("/gradio_api/cancel", json=body, headers=headers).status_code == 403
    ours = {"Origin": space.address, "Sec-Fetch-Site": "same-origin"}
    assert space.client.post("/gradio_api/queue/join", json=body, headers=ours).status_code == 200


def test_requests_have_limits(space):
    visitor = Visitor(space)
    visitor.offered()
    assert visitor.join("write", "x" * 2**20, [], 0, 1.0, 0.9, 4, False).status_code == 413
    chunks = (b'{"data": ["' + b"x" * 2**16 for _ in range(40))
    assert space.client.post("/gradio_api/queue/join", content=chunks).status_code == 413
    for body in (b"[" * 100_000, b"{", b"9" * 10_000, b'{"session_hash": ["x"]}', b'{"session_hash": "a/b"}', b"\xff"):
        assert space.client.post("/gradio_api/queue/join", content=body).status_code == 400
    start = time.monotonic()
    assert "at most 8,000 are taken" in visitor.write([], prompt="a " * 150_000)[2]["value"]
    assert time.monotonic() - start < 5
    assert "at most 256 are taken" in visitor.write([], prompt="You are " * 400)[2]["value"]
    for tokens in (10**6, -1, 101, "5", None, 1e300):
        message = visitor.ask("write", "Jack", [], 0, 1.0, 0.9, tokens, False)
        assert not message["success"] or message["output"]["data"][2].get("value"), message
    for data in (
        ["x\n" * 61, ["toxicity"], 2, 0], ["x" * 501, ["toxicity"], 2, 0], ["x", ["toxicity"], 10**6, 0],
        ["x", ["toxicity"], 2, 10**30], ["x" * 200_000, ["toxicity"], 2, 0],
    ):  # fmt: skip
        message = visitor.ask("measure", *data)
        assert not message["success"] or "did not work" in message["output"]["data"][0], message
    for data in (["toxicity", 10**9, 30, 1], ["toxicity", 80, 10**9, 1], ["../x", 80, 30, 1], ["toxicity", 80, 30, -1]):
        message = visitor.ask("train", *data, None)
        assert not message["success"] or "did not work" in message["output"]["data"][0], message


def test_one_visitor_does_not_take_all_the_places_of_writing(space):
    eve = Visitor(space)
    eve.offered()
    for _ in range(24):
        assert eve.join("write", "Jack thinks", [], 0, 1.0, 0.9, 100, False).status_code == 200
    ann = Visitor(space)
    ann.offered()
    start = time.monotonic()
    assert "done" in ann.write(["toxicity"])[1]
    waited = time.monotonic() - start
    said = [message for message in eve.messages() if message["msg"] == "process_completed"]
    refused = [one for one in said if "still does what you asked" in json.dumps(one)]
    assert len(said) == 24 and len(refused) >= 16 and waited < 30
    assert "done" in eve.write(["toxicity"])[1]


def test_a_visitor_trains_once_at_a_time_and_not_when_gone(space):
    """One that is watched goes on; one that nobody watches ends and leaves nothing."""
    before = space.temporary()
    alice, eve = Visitor(space), Visitor(space)
    assert alice.join("train", "toxicity", 300, 60, 1, None).status_code == 200
    watching = alice.messages()
    assert any("Asking both models" in json.dumps(message) for message in watching)
    for _ in range(3):  # the same browser again, over another connection
        alice.join("train", "toxicity", 300, 60, 1, None)
    assert any("of yours has not ended" in json.dumps(message) for message in watching)
    assert len(space.temporary()) == len(before) + 1
    eve.join("train", "harmfulness", 10, 5, 1, None)  # asks, and never listens
    pause(5)
    assert len(space.temporary()) == len(before) + 1  # hers waits in line, and is given up there
    watching.close()
    for _ in range(1200):  # it asks for answers before its first step; there it cannot be stopped
        if space.temporary() == before:
            break
        pause(0.1)
    assert space.temporary() == before


def test_a_state_of_the_server_is_not_taken_from_a_visitor(space):
    """The folder of a trained patch is the server's: one that a request names is ignored."""
    folder = space.folder / "acme-secret"
    folder.mkdir()
    visitor = Visitor(space)
    visitor.offered()
    said = visitor.answer("push", str(folder), "acme/stolen", "hf_alice", False)[0]
    assert "There is no patch yet" in said


def test_tokens_are_never_repeated(space):
    visitor = Visitor(space)
    for token in ("hf_secret\nX: y", "hf_s\u00fccret", "hf_secret secret", "hf_" + "x" * 10_000):
        told = json.dumps(visitor.ask("push", None, "acme/x", token, True))
        assert "secret" not in told and "s\\u00fccret" not in told and "xxx" not in told
    assert "hf_secret" not in space.log.read_text()


def test_a_page_for_the_network_checks_no_host_unless_told(monkeypatch):
    monkeypatch.delenv("POLICY_PATCH_HOSTS", raising=False)
    for address in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"):
        assert is_loopback(address)
        assert "localhost" in door(address, Visitors(), bool, bool)[0].kwargs["allowed_hosts"]
    for address in ("0.0.0.0", "::", "192.168.0.3", "example.org"):
        assert not is_loopback(address) and len(door(address, Visitors(), bool, bool)) == 1
    monkeypatch.setenv("POLICY_PATCH_HOSTS", "patches.example.org *.gradio.live")
    for address in ("0.0.0.0", "127.0.0.1"):
        assert "patches.example.org" in door(address, Visitors(), bool, bool)[0].kwargs["allowed_hosts"]


@pytest.mark.parametrize(
    ("host", "may_change"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_only_on_a_machine_of_ones_own_the_base_may_change(monkeypatch, host, may_change):
    asked = {}

    class Page:
        def launch(self, **options):
            asked["launched"] = options

    def build(base, patches, *, base_may_change):
        asked.update(base=base, base_may_change=base_may_change)
        return Page()

    monkeypatch.setattr("policy_patch.ui.build_demo", build, raising=False)
    args = SimpleNamespace(base="lab:base", patches=None, host=host, port=7860)
    assert open_page(args) == 0
    assert asked["base_may_change"] is may_change and asked["launched"]["inbrowser"] is may_change
    assert not asked["launched"].get("show_error")

"""The door of the Space attacked over HTTP: routes, files, hosts, sizes, and what answers tell about the server."""

import json
import time
import uuid

import pytest

pytest.importorskip("gradio")

from policy_patch.cli.demo import open_page
from policy_patch.ui.door import door, is_loopback
from policy_patch.ui.visitors import Visitors
from tests.ui.space import APP, Visitor, assert_tells_nothing, note_in

OWN = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]


def test_no_response_tells_about_the_servers_disk(space):
    """Every function of the page, with inputs that no browser would send."""
    page = space.client.get("/")
    assert_tells_nothing(space, page.text.replace("/tmp/gradio", ""))
    assert_tells_nothing(space, json.dumps(space.config) + space.client.get("/gradio_api/info").text)
    assert space.config["show_error"] is False
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
    assert "takes at most 8,000" in visitor.write([], prompt="a " * 150_000)[2]
    assert time.monotonic() - start < 5
    assert "at most 256 are allowed" in visitor.write([], prompt="You are " * 400)[2]
    for tokens in (10**6, -1, 101, "5", None, 1e300):
        message = visitor.ask("write", "Jack", [], 0, 1.0, 0.9, tokens, False)
        assert not message["success"] or note_in(message["output"]["data"][2:]), message
    for data in (
        ["x\n" * 61, OWN[:1], 2, 0], ["x" * 501, OWN[:1], 2, 0], ["x", OWN[:1], 10**6, 0], ["x", OWN[:1], 2, 10**30],
        ["x" * 200_000, OWN[:1], 2, 0],
    ):  # fmt: skip
        message = visitor.ask("measure", *data, "toxicity")
        assert not message["success"] or "did not work" in note_in(message["output"]["data"]), message
    for data in (["toxicity", 10**9, 30, 1], ["toxicity", 80, 10**9, 1], ["../x", 80, 30, 1], ["toxicity", 80, 30, -1]):
        message = visitor.ask("train", *data, None)
        assert not message["success"] or "did not work" in note_in(message["output"]["data"]), message


def test_a_state_of_the_server_is_not_taken_from_a_visitor(space):
    """The folder of a trained patch is the server's: one that a request names is ignored."""
    folder = space.folder / "acme-secret"
    folder.mkdir()
    visitor = Visitor(space)
    visitor.offered()
    said = note_in(visitor.answer("push", str(folder), "acme/stolen", "hf_alice", False))
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
    assert open_page("lab:base", None, host=host, port=7860) == 0
    assert asked["base_may_change"] is may_change and asked["launched"]["inbrowser"] is may_change
    assert not asked["launched"].get("show_error")
